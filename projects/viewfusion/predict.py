"""Views of every held-out object from one to k images of it, for projects.benchmark.evaluate to score."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import number, one_of, whole
from core.errors import BadConfig
from projects.viewfusion.settings import check_sampling
from projects.viewfusion.switches import ALPHAS, TARGETS


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no prediction can have."""
    one_of("targets", cfg["targets"], list(TARGETS))
    whole("num_inputs", cfg["num_inputs"])
    if cfg["num_objects"] is not None:
        whole("num_objects", cfg["num_objects"])
    one_of("way", cfg["way"], ["never", "alone"])
    number("way_step_deg", cfg["way_step_deg"], 1, 180)
    one_of("alpha", cfg["alpha"], ALPHAS)
    if cfg["given"] is not None and cfg["targets"] != "views":
        raise BadConfig(f"given={cfg['given']} is of targets=views; leave it away with targets={cfg['targets']}")
    if cfg["given"] is not None and cfg["num_inputs"] != 1:
        raise BadConfig(
            f"num_inputs={cfg['num_inputs']}: given={cfg['given']} says which views are given; leave one away"
        )
    check_sampling(cfg)


@app(config_name="viewfusion_predict", check=check)
def main(cfg: DictConfig) -> None:
    from projects.viewfusion.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    main()
