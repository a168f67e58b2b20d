"""The ways to find the object in a picture, by name. Loads no torch: programs check the word before they do.

The ways themselves stand in `core.foreground`.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from core.errors import BadConfig

MODES = ("auto", "white", "none", "rembg", "flood", "grabcut")


def check_mask(mask: str, *, more: tuple[str, ...] = ()) -> None:
    """BadConfig for what is neither a way, one of `more`, nor possibly a mask image's path."""
    known = (*more, *MODES)
    may_be_path = "." in mask or os.sep in mask or os.path.isfile(mask)  # noqa: PTH113 (a Path raises at long names)
    if mask not in known and not may_be_path:
        raise BadConfig(f"mask={mask} is neither one of {', '.join(known)} nor a mask image's path; check the spelling")


def check_mask_here(mask: str) -> None:
    """BadConfig for a way that this machine lacks something for."""
    if mask == "rembg" and (lack := rembg_lacks()):
        raise BadConfig(f"mask=rembg needs {lack}; use mask=auto, or one of {', '.join(MODES)}")


def rembg_lacks() -> str | None:
    """What rembg would need here, in words; None where it can be used. We never let it download."""
    home = os.environ.get("U2NET_HOME") or Path(os.environ.get("XDG_DATA_HOME", "~"), ".u2net")
    weights = Path(home).expanduser() / "u2net.onnx"
    if not weights.is_file():
        return f"its weights at {str(weights)!r}"
    return None if find_spec("rembg") else "the package rembg, which is not installed"
