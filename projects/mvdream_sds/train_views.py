"""Train MVDream's multi-view model; a run started again in its folder goes on where it stopped."""

from omegaconf import DictConfig

from core.app import app
from core.training.settings import check_settings


@app(config_name="mvdream_sds_views", check=check_settings)
def main(cfg: DictConfig) -> float:
    from core.training.run import run

    return run(cfg)


if __name__ == "__main__":
    main()
