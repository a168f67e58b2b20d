"""Views of every held-out toybox object from one to k images of it, for projects.benchmark.evaluate to score."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import one_of, whole
from projects.viewfusion.settings import check_sampling
from projects.viewfusion.switches import TARGETS


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no prediction can have."""
    one_of("targets", cfg["targets"], list(TARGETS))
    for key in ("num_objects", "num_inputs"):
        whole(key, cfg[key])
    check_sampling(cfg)


@app(config_name="viewfusion_predict", check=check)
def main(cfg: DictConfig) -> None:
    from projects.viewfusion.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    main()
