"""Texts -> views of an object: 4 of them, or any number, from cameras evenly around it."""

from omegaconf import DictConfig

from core.app import app
from projects.mvdream_sds.settings import check, check_any_text


@app(config_name="mvdream_sds_generate", check=check)
def main(cfg: DictConfig) -> None:
    check_any_text(cfg)
    from projects.mvdream_sds.pipeline import generate

    generate(cfg)


if __name__ == "__main__":
    main()
