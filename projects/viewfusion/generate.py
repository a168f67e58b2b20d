"""Posed images -> views at any poses: a circle, a list, a rig's or those of a transforms.json."""

from omegaconf import DictConfig

from core.app import app
from projects.viewfusion.settings import check


@app(config_name="viewfusion_generate", check=check)
def main(cfg: DictConfig) -> None:
    from projects.viewfusion.pipeline import generate

    generate(cfg)


if __name__ == "__main__":
    main()
