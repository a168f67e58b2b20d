"""Views of every held-out toybox object from one image of it, for projects.benchmark.evaluate to score."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import whole
from projects.syncdreamer.settings import check_sampling


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no prediction can have."""
    whole("input_view", cfg["input_view"], least=0, most=cfg["model"]["denoiser"]["num_views"] - 1)
    for key in ("num_objects", "objects_per_batch"):
        whole(key, cfg[key])
    check_sampling(cfg)


@app(config_name="syncdreamer_predict", check=check)
def main(cfg: DictConfig) -> None:
    from projects.syncdreamer.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    main()
