"""Train MVDream's multi-view model; a run started again in its folder goes on where it stopped."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.training.settings import check_settings
from projects.mvdream_sds.settings import check_adapters


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no multi-view model can be trained with."""
    check_settings(cfg)
    check_adapters(cfg["model"].get("lora"), cfg["model"].get("start"))


@app(config_name="mvdream_sds_views", check=check)
def main(cfg: DictConfig) -> float:
    from core.training.run import run

    return run(cfg)


if __name__ == "__main__":
    main()
