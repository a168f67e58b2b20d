"""Ouroboros3D's orbits (src/data/multiview_blender.py of the official code).

<root>/<id>/render_0000.webp ...   RGBA
<root>/<id>/meta.json              {"camera_angle_x": radians, "locations": [{"transform_matrix": camera-to-world 4 x 4,
                                   OpenGL axes, world z up; "frames": [{"name": "render_0000.webp"}]}, ...]}
<root>/train.txt                   one id a line (val.txt and test.txt are read too)

The official loader makes the first view's camera the world (and y its up) itself; that is no part of the files.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.checkpoints.datafiles import read_names
from core.data.conventions import SPLITS
from core.errors import BadData
from core.files import atomic_file, atomic_folder
from core.images import to_pil
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import angle_lens, angle_x, opengl_poses
from data_tools.layouts._files import folders, nonempty, read_json, write_json, write_text
from data_tools.layouts._shared import Layout, Listing, Sheet, listing, sheet


def find(root: Path) -> Listing:
    """The ids of the lists; without any, all folders that hold a meta.json."""
    splits = {split: read_names(root / f"{split}.txt") for split in SPLITS if (root / f"{split}.txt").is_file()}
    if splits:
        found = [listing(names, f"{split}.txt") for split, names in splits.items()]
        faults = [fault for each in found for fault in each.faults]
        names = list(dict.fromkeys(name for each in found for name in each.names))
        kept = {split: each.names for split, each in zip(splits, found, strict=True)}
        return Listing(nonempty(names, root, "ids in train.txt"), kept, faults)
    found_folders = folders(root, lambda folder: (folder / "meta.json").is_file()) if root.is_dir() else []
    return Listing(nonempty(found_folders, root, "<id>/meta.json, render_0000.webp ... and train.txt"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet of the orbit."""
    folder = root / name
    meta = read_json(folder / "meta.json")
    locations = meta.get("locations")
    if not isinstance(locations, list) or not locations:
        raise BadData("meta.json lists no views (key 'locations')")
    files, poses = [], []
    for index, location in enumerate(locations):
        try:
            files.append(location["frames"][0]["name"])
            poses.append(location["transform_matrix"])
        except (KeyError, IndexError, TypeError) as error:
            raise BadData(f"meta.json: view {index} lacks frames[0].name or transform_matrix") from error
    made = sheet(
        folder,
        [str(file) for file in files],
        [None] * len(files),
        lens=angle_lens(meta.get("camera_angle_x")),
        name=name,
    )
    for frame, pose in zip(made.transforms["frames"], poses, strict=True):
        frame["transform_matrix"] = pose  # as it stands: core.views says what is wrong with it
    return {"": made}


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One folder of lossless WebP images and meta.json."""
    views = parts[""]
    angle = angle_x(views, "ouroboros", square=True)
    locations = []
    with atomic_folder(out / name, overwrite=True) as folder:
        for index, (image, pose) in enumerate(zip(views.images, opengl_poses(views), strict=True)):
            file = f"render_{index:04d}.webp"
            buffer = io.BytesIO()
            # exact: else the encoder drops the colours under fully transparent pixels
            to_pil(image).save(buffer, format="WEBP", lossless=True, exact=True)
            (folder / file).write_bytes(buffer.getvalue())
            locations.append({"index": index, "transform_matrix": pose.tolist(), "frames": [{"name": file}]})
        write_json(folder / "meta.json", {"camera_angle_x": angle, "locations": locations})
        write_json(folder / PROVENANCE, made)


def finish(out: Path, listed: Listing) -> None:
    """train.txt, and val.txt and test.txt where the objects have such lists; an object of none trains."""
    others = {name for split in ("val", "test") for name in listed.splits.get(split, ())}
    others -= set(listed.splits.get("train", ()))
    train = [name for name in listed.names if name not in others]
    for split, names in {**listed.splits, "train": train}.items():
        if split in SPLITS:
            with atomic_file(out / f"{split}.txt") as temporary:
                write_text(temporary, "\n".join(names))


LAYOUT = Layout(find=find, read=read, write=write, record=lambda out, name: out / name / PROVENANCE, finish=finish)
