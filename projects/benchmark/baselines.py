"""Predictions that need no model, laid out like any method's: what is trained must beat them all."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="baselines")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from projects.benchmark.trivial import write_baselines

    write_baselines(Path(cfg.root), cfg.split, Path(cfg.out), input_view=cfg.input_view)


if __name__ == "__main__":
    main()
