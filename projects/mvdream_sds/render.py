"""An optimised scene -> an orbit around it: frames with their cameras, as a view set, and a video."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import one_of, whole
from core.device import check_device
from core.errors import BadConfig
from projects.mvdream_sds.scene.source import check_orbit, check_source

BACKGROUNDS = ("white", "scene")
PANELS = ("rgb", "normal", "opacity")


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no orbit can be made with."""
    check_source(cfg)
    check_device(cfg["device"])
    whole("num_views", cfg["num_views"])
    whole("fps", cfg["fps"])
    check_orbit(cfg)
    one_of("background", cfg["background"], BACKGROUNDS)
    if not cfg["panels"]:
        raise BadConfig(f"panels is empty; choose some of {', '.join(PANELS)}")
    for panel in cfg["panels"]:
        one_of("panels", panel, PANELS)


@app(config_name="mvdream_sds_render", reads=("scene",), check=check)
def main(cfg: DictConfig) -> None:
    from projects.mvdream_sds.scene.filming import render

    render(cfg)


if __name__ == "__main__":
    main()
