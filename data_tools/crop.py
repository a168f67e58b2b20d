"""Pictures -> a model's framing: the object's bounding box, scaled and centred on a square.

    python -m data_tools.crop input=cutouts rule=syncdreamer out=framed     RGBA
    python -m data_tools.crop input=cutouts rule=zero123 out=framed_white   RGB on white
    python -m data_tools.crop input=cutouts rule=viewfusion target_breadth=0.6 out=framed

Leaves one PNG per picture in `out`, and `results.jsonl`, which lists the pictures that failed too.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import number, one_of, whole
from core.errors import BadConfig
from core.masks import check_mask

VERSION = 1  # of what decides a result beside the settings
RULES = ("syncdreamer", "zero123", "viewfusion")
CROP_SIZE, SIZE = 200, 256  # officially


def check(cfg: dict) -> None:
    """Refuse settings that no picture fits."""
    one_of("rule", cfg["rule"], RULES)
    if cfg["size"] is not None:
        whole("size", cfg["size"], most=4096)
    if cfg["rule"] == "viewfusion":
        _check_breadth(cfg)
    else:
        _check_box(cfg)
    if cfg["mask"] is not None:
        check_mask(str(cfg["mask"]))


def _check_box(cfg: dict) -> None:
    """Of the rules that scale the object's box."""
    if cfg["target_breadth"] is not None:
        raise BadConfig(
            f"target_breadth={cfg['target_breadth']} is of rule=viewfusion; rule={cfg['rule']} has crop_size"
        )
    if cfg["crop_size"] == -1 and cfg["rule"] != "syncdreamer":
        raise BadConfig(f"crop_size=-1 keeps the framing, which rule={cfg['rule']} never does; give a number of pixels")
    if cfg["crop_size"] not in (None, -1):
        whole("crop_size", cfg["crop_size"], most=SIZE if cfg["size"] is None else cfg["size"])


def _check_breadth(cfg: dict) -> None:
    """Of the rule that changes the canvas around the picture."""
    if cfg["crop_size"] is not None:
        raise BadConfig(f"crop_size={cfg['crop_size']}: rule=viewfusion scales no box; give target_breadth=, e.g. 0.6")
    if cfg["target_breadth"] is None:
        raise BadConfig(
            "rule=viewfusion needs target_breadth=, the part of the columns that holds the object, e.g. 0.6"
        )
    number("target_breadth", cfg["target_breadth"], 0, 1, above=True)


@app(config_name="crop", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """Pictures -> a model's framing: the object's bounding box, scaled and centred on a square."""
    from pathlib import Path

    import torch

    from core.errors import BadImage
    from core.foreground import foreground_mask
    from core.images import ImageInfo, framed
    from core.masks import check_mask_here
    from data_tools.pictures.batch import turn_all
    from data_tools.pictures.viewfusion import viewfusion_framed
    from data_tools.pictures.zero123 import zero123_framed

    if cfg.mask is not None:
        check_mask_here(cfg.mask)

    def turn(rgba: torch.Tensor, info: ImageInfo) -> tuple[torch.Tensor, dict]:
        record = {"rule": cfg.rule, "from": [info.width, info.height]}
        if (rgba[3] >= 1).all():  # nothing says what the object is
            if cfg.mask is None:
                raise BadImage(
                    "no alpha marks the object; run data_tools.segment first, or give mask=auto, white, none"
                )
            rgba[3], record["mask"] = foreground_mask(rgba[:3], cfg.mask)
        if cfg.rule == "viewfusion":
            picture, record["breadth"] = viewfusion_framed(rgba, target_breadth=cfg.target_breadth, size=cfg.size)
            return picture, record
        crop_size, size = (CROP_SIZE if cfg.crop_size is None else cfg.crop_size), cfg.size or SIZE
        if cfg.rule == "zero123":
            picture, record["box"] = zero123_framed(rgba, crop_size=crop_size, size=size)
            return picture, record
        return framed(rgba, crop_size=crop_size, size=size), record

    settings, shaping = OmegaConf.to_container(cfg), ("rule", "size", "crop_size", "target_breadth", "mask")
    records = turn_all(settings, Path(cfg.out), turn, program="data_tools.crop", version=VERSION, shaping=shaping)
    skipped = sum(record["status"] == "skipped" for record in records)
    print(f"{cfg.out}: {len(records) - skipped} pictures framed, {skipped} were there before")


if __name__ == "__main__":
    main()
