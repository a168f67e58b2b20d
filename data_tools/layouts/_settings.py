"""Settings of the programs on layouts, refused before anything heavy is imported."""

from collections.abc import Mapping
from typing import Any

from core.config import one_of
from core.masks import MODES, check_mask_here

UPS = ("z", "y", "-y")


def check(cfg: Mapping[str, Any], names: list[str]) -> None:
    """Refuse a layout that is not among `names`, and settings that no layout has. One mask image fits no view set."""
    one_of("layout", cfg["layout"], names)
    if "up" in cfg:
        one_of("up", cfg["up"], UPS)
    if cfg.get("mask") is not None:
        check_mask_here(one_of("mask", cfg["mask"], MODES))
