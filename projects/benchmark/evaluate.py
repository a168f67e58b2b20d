"""Predicted views and meshes against the truth, as a protocol says, in one table for all methods."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from projects.benchmark.evaluation import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main()
