"""nerfstudio's data folders.

<root>/<name>/transforms.json, images/...    or <root> itself is one

`transforms.json` is the schema of our own view sets; this reader is for those of others, which lack what ours state.
The files do not say which way is up (nerfstudio turns the world itself): `up=` does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import BadData
from core.views import TRANSFORMS, ViewSet
from data_tools.layouts._files import folders, nonempty, read_json
from data_tools.layouts._shared import Layout, Listing, Sheet
from data_tools.layouts.views import record, write_set


def find(root: Path) -> Listing:
    """The folder itself (its name: `.`), or those below it that hold a transforms.json."""
    if (root / TRANSFORMS).is_file():
        return Listing(["."])
    found = folders(root, lambda folder: (folder / TRANSFORMS).is_file()) if root.is_dir() else []
    return Listing(nonempty(found, root, f"{TRANSFORMS}, or <name>/{TRANSFORMS}"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet; masks beside the images, which we cannot read, are faults."""
    folder = root / name
    transforms = read_json(folder / TRANSFORMS)
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        raise BadData(f"{TRANSFORMS} lists no views (key 'frames')")
    faults = [
        f"view {index}: has a mask_path; put masks into the images' alpha"
        for index, frame in enumerate(frames)
        if isinstance(frame, Mapping) and frame.get("mask_path")
    ]
    model = transforms.get("camera_model", "PINHOLE")
    if model not in ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV"):
        raise BadData(f"camera_model {model} is not supported; undistort the images first")
    return {"": Sheet({"name": folder.resolve().name, **transforms}, folder, faults)}


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One view set."""
    write_set(out / name, parts[""], made)


LAYOUT = Layout(find=find, read=read, write=write, record=record, world_is_free=True)
