"""Pictures -> a model's framing: the object's bounding box, scaled and centred on a square.

    python -m data_tools.crop input=cutouts rule=syncdreamer out=framed     RGBA
    python -m data_tools.crop input=cutouts rule=zero123 out=framed_white   RGB on white

Leaves one PNG per picture in `out`, and `results.jsonl`, which lists the pictures that failed too.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import one_of, whole
from core.errors import BadConfig
from core.masks import check_mask

VERSION = 1  # of what decides a result beside the settings
RULES = ("syncdreamer", "zero123")


def check(cfg: dict) -> None:
    """Refuse settings that no picture fits."""
    one_of("rule", cfg["rule"], RULES)
    whole("size", cfg["size"], most=4096)
    if cfg["crop_size"] == -1 and cfg["rule"] != "syncdreamer":
        raise BadConfig(f"crop_size=-1 keeps the framing, which rule={cfg['rule']} never does; give a number of pixels")
    if cfg["crop_size"] != -1:
        whole("crop_size", cfg["crop_size"], most=cfg["size"])
    if cfg["mask"] is not None:
        check_mask(str(cfg["mask"]))


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
        if cfg.rule == "zero123":
            picture, record["box"] = zero123_framed(rgba, crop_size=cfg.crop_size, size=cfg.size)
            return picture, record
        return framed(rgba, crop_size=cfg.crop_size, size=cfg.size), record

    settings, shaping = OmegaConf.to_container(cfg), ("rule", "size", "crop_size", "mask")
    records = turn_all(settings, Path(cfg.out), turn, program="data_tools.crop", version=VERSION, shaping=shaping)
    skipped = sum(record["status"] == "skipped" for record in records)
    print(f"{cfg.out}: {len(records) - skipped} pictures framed, {skipped} were there before")


if __name__ == "__main__":
    main()
