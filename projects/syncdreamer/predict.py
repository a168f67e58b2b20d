"""Views of every held-out toybox object from one image of it, for projects.benchmark.evaluate to score."""

from omegaconf import DictConfig

from core.app import app


@app(config_name="syncdreamer_predict")
def main(cfg: DictConfig) -> None:
    from projects.syncdreamer.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    main()
