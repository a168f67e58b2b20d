"""The synthetic scenes of NeRF, as Blender scripts write them.

<root>/<name>/transforms_train.json (_val, _test)   {"camera_angle_x": radians, "frames": [{"file_path": "./train/r_0",
                                                    "transform_matrix": camera-to-world 4 x 4, OpenGL axes}]}
<root>/<name>/train/r_0.png ...                     RGBA; <root> itself may be such a scene

World: z up. Each list becomes a part of the object (`train`, `val`, `test`); a view set without parts becomes `train`.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from core.data.conventions import SPLITS
from core.errors import BadData
from core.files import atomic_folder
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import angle_x, opengl_poses
from data_tools.layouts._files import first_size, folders, nonempty, read_json, write_json, write_pngs
from data_tools.layouts._shared import Layout, Listing, Sheet, attempt


def _lists(folder: Path) -> list[str]:
    return [split for split in SPLITS if (folder / f"transforms_{split}.json").is_file()]


def find(root: Path) -> Listing:
    """The folder itself (its name: `.`), or the scenes below it."""
    if _lists(root):
        return Listing(["."])
    found = folders(root, lambda folder: bool(_lists(folder))) if root.is_dir() else []
    return Listing(nonempty(found, root, "<name>/transforms_train.json and its images"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """A sheet per list."""
    folder = root / name
    return {split: attempt(partial(_sheet, folder, split), folder) for split in _lists(folder)}


def _sheet(folder: Path, split: str) -> Sheet:
    file = f"transforms_{split}.json"
    transforms = read_json(folder / file)
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        raise BadData(f"{file} lists no views (key 'frames')")
    named = [frame.get("file_path") for frame in frames if isinstance(frame, Mapping)]
    paths = [folder / path for path in named if isinstance(path, str)]
    width, height = first_size(path if path.suffix else path.with_suffix(".png") for path in paths)
    return Sheet({"w": width, "h": height, "name": folder.resolve().name, **transforms}, folder)


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One scene."""
    parts = {"train": parts[""]} if "" in parts else parts
    unknown = [part for part in parts if part not in SPLITS]
    if unknown:
        raise BadData(f"the part {unknown[0]!r} is none of {', '.join(SPLITS)}; choose one part by part=")
    with atomic_folder(out / name, overwrite=True) as folder:
        for split, views in parts.items():
            (folder / split).mkdir()
            write_pngs(folder / split, views, "r_{:d}.png")
            frames = [
                {"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()}
                for index, pose in enumerate(opengl_poses(views))
            ]
            angle = angle_x(views, "blender_synthetic")
            write_json(folder / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": frames})
        write_json(folder / PROVENANCE, made)


LAYOUT = Layout(find=find, read=read, write=write, record=lambda out, name: out / name / PROVENANCE, parts=None)
