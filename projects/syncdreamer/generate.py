"""One image (or many) -> 16 views on a ring, several samples each, ranked by how well their views agree."""

from omegaconf import DictConfig

from core.app import app
from projects.syncdreamer.settings import check


@app(config_name="syncdreamer_generate", check=check)
def main(cfg: DictConfig) -> None:
    from projects.syncdreamer.pipeline import generate

    generate(cfg)


if __name__ == "__main__":
    main()
