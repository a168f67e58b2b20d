"""Views from every held-out toybox caption, for projects.benchmark.evaluate to score."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import whole
from core.errors import BadConfig
from projects.mvdream_sds.settings import check as check_sampling

# Settings of `generate` that are not asked for here: the captions are the texts, and a seed makes one sample of each.
UNASKED: dict[str, Any] = {"prompt": "a caption", "prompts": None, "samples": 1}


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no prediction can have."""
    whole("num_objects", cfg["num_objects"])
    if not cfg["use_camera"]:
        raise BadConfig("use_camera=false makes images from nowhere, and predictions are views; set use_camera=true")
    check_sampling({**cfg, **UNASKED})


@app(config_name="mvdream_sds_predict", check=check)
def main(cfg: DictConfig) -> None:
    from projects.mvdream_sds.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    main()
