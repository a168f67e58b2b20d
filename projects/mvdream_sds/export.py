"""An optimised scene -> a mesh with its colours, as files that other programs open."""

from typing import Any

from omegaconf import DictConfig

from core.app import app
from core.config import number, one_of, whole
from core.device import check_device
from core.errors import BadConfig
from projects.mvdream_sds.scene.source import check_orbit, check_source

FORMATS = ("glb", "obj", "ply")
COLORS = ("seen", "surface")


def formats_of(given: Any) -> list[str]:
    """`glb,obj,ply` or a list of these, each once."""
    words = given.split(",") if isinstance(given, str) else list(given)
    words = [str(word).strip().lower().removeprefix(".") for word in words]
    if not words:
        raise BadConfig(f"format is empty; choose some of {', '.join(FORMATS)}")
    for word in words:
        one_of("format", word, FORMATS)
    return list(dict.fromkeys(words))


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no mesh can be made with."""
    check_source(cfg)
    check_device(cfg["device"])
    formats_of(cfg["format"])
    _check_threshold(cfg["threshold"])
    if "threshold" in cfg["isosurface"]:
        raise BadConfig(f"isosurface.threshold={cfg['isosurface']['threshold']}: set threshold= itself")
    one_of("colors", cfg["colors"], COLORS)
    whole("texture_size", cfg["texture_size"], least=16)
    whole("texture_padding", cfg["texture_padding"], least=0)
    whole("num_views", cfg["num_views"], least=0)
    check_orbit(cfg)


def _check_threshold(threshold: Any) -> None:
    if threshold in ("seen", "auto"):
        return
    try:
        number("threshold", float(threshold), 0, above=True)
    except (TypeError, ValueError) as error:
        raise BadConfig(f"threshold={threshold}: expected seen, auto or a number above 0") from error


@app(config_name="mvdream_sds_export", reads=("scene",), check=check)
def main(cfg: DictConfig) -> None:
    from projects.mvdream_sds.scene.exporting import export

    export(cfg)


if __name__ == "__main__":
    main()
