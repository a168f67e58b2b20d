"""The ways to find the object in a picture, by name. Loads no torch: programs check the word before they do.

The ways themselves stand in `core.foreground`.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from core.errors import BadConfig

NETWORKS = {"birefnet": "birefnet-general", "rembg": "u2net"}  # our words, and rembg's names of the networks
MODES = ("auto", "white", "none", *NETWORKS, "flood", "grabcut")


def check_mask(mask: str, *, more: tuple[str, ...] = ()) -> None:
    """BadConfig for what is neither a way, one of `more`, nor possibly a mask image's path."""
    known = (*more, *MODES)
    may_be_path = "." in mask or os.sep in mask or os.path.isfile(mask)  # noqa: PTH113 (a Path raises at long names)
    if mask not in known and not may_be_path:
        raise BadConfig(f"mask={mask} is neither one of {', '.join(known)} nor a mask image's path; check the spelling")


def check_mask_here(mask: str, key: str = "mask") -> None:
    """BadConfig for a way that this machine lacks something for; `key` is the setting's name."""
    if mask in NETWORKS and (lack := network_lacks(mask)):
        raise BadConfig(f"{key}={mask} needs {lack}; use {key}=auto, or another way ({', '.join(MODES)})")


def network_lacks(mask: str) -> str | None:
    """What `birefnet` or `rembg` would need here, in words; None where it can be used. We never let it download."""
    places = _weights(f"{NETWORKS[mask]}.onnx")
    if not any(path.is_file() for path in places):
        return f"its weights at {str(places[0])!r}"
    missing = [package for package in ("rembg", "onnxruntime") if find_spec(package) is None]
    return f"the package {' and '.join(missing)}: pip install -c constraints.txt -e '.[segment]'" if missing else None


def _weights(name: str) -> list[Path]:
    """Where rembg looks for a network's file: one flat folder, and since 2.0.8x a folder for each network."""
    home, data = os.environ.get("U2NET_HOME"), os.environ.get("XDG_DATA_HOME")
    flat = Path(home) if home else Path(data or "~", ".u2net")
    apart = Path(home or os.environ.get("REMBG_HOME") or (Path(data, "rembg") if data else "~/.rembg"))
    return [(flat / name).expanduser(), (apart / "models" / Path(name).stem / name).expanduser()]
