"""Photos -> RGBA: find the object and make what is around it transparent.

    python -m data_tools.segment input=photos out=cutouts
    python -m data_tools.segment input=photo.jpg mask=grabcut out=cutouts

Leaves one PNG per photo in `out`, and `results.jsonl`, which says for each in which way it was cut out, and lists the
photos that failed. Networks run only where the package rembg and their weights are installed: nothing is downloaded.
"""

from omegaconf import DictConfig, OmegaConf

from core.app import app
from core.config import one_of
from core.masks import NETWORKS

MASKS = ("auto", *NETWORKS, "flood", "grabcut", "white")
VERSION = 2  # of what decides a result beside the settings


def check(cfg: dict) -> None:
    """Refuse a way that does not exist, or does not cut anything out."""
    one_of("mask", cfg["mask"], MASKS)


@app(config_name="segment", reads=(), check=check)
def main(cfg: DictConfig) -> None:
    """Photos -> RGBA: find the object and make what is around it transparent."""
    from pathlib import Path

    import torch

    from core.errors import BadImage
    from core.foreground import foreground_mask
    from core.images import ImageInfo, composite
    from core.masks import check_mask_here
    from data_tools.pictures.batch import turn_all

    check_mask_here(cfg.mask)

    def turn(rgba: torch.Tensor, info: ImageInfo) -> tuple[torch.Tensor, dict]:
        if rgba[3].max() == 0:
            raise BadImage("no foreground pixels: alpha is 0 everywhere; give a picture with a visible object")
        if cfg.mask == "auto" and (rgba[3] < 1).any():
            alpha, how = rgba[3], "mask=auto: the file's own alpha"
        else:
            rgba[:3] = composite(rgba)
            alpha, how = foreground_mask(rgba[:3], cfg.mask)
        record = {"mask": how, "rough": "grabcut" in how.lower(), "foreground": round(float(alpha.mean()), 4)}
        return torch.cat([rgba[:3], alpha[None]]), record

    settings = OmegaConf.to_container(cfg)
    records = turn_all(settings, Path(cfg.out), turn, program="data_tools.segment", version=VERSION, shaping=("mask",))
    made = [record for record in records if record["status"] == "ok"]
    rough = sum(record["rough"] for record in made)
    note = f" ({rough} of them by GrabCut, a rough guess: look at them)" if rough else ""
    print(f"{cfg.out}: {len(made)} photos cut out{note}, {len(records) - len(made)} were there before")


if __name__ == "__main__":
    main()
