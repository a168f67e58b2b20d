"""Zero-1-to-3's renderings, `views_release` (ldm/data/simple.py of the official code).

<root>/valid_paths.json             object folders, in order; the first 99% train, the rest validate
<root>/<id>/000.png, 000.npy ...    RGBA, and the world-to-camera matrix 3 x 4 with OpenGL axes, world z up

The lens is stored nowhere: it is Blender's 35 mm on 32 mm (49.13 degrees), so a view set of another one is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.cameras.rigs import BLENDER_FOCAL
from core.errors import BadData
from core.files import atomic_file, atomic_folder
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import (
    from_world_to_camera_opengl,
    one_lens,
    opengl_poses,
    square_lens,
    to_world_to_camera,
)
from data_tools.layouts._files import folders, nonempty, numbered, read_json, read_matrix, write_json, write_pngs
from data_tools.layouts._shared import Layout, Listing, Sheet, each_pose, listing, sheet

WRONG_SHAPE = "4x4 camera-to-world matrices are layout=viewfusion_abo"


def find(root: Path) -> Listing:
    """The folders of valid_paths.json; without it, all that hold a 000.npy."""
    path = root / "valid_paths.json"
    if path.is_file():
        names = read_json(path, list)
        if not all(isinstance(name, str) for name in names):
            raise BadData(f"{path.name} is no list of folder names")
        return listing(nonempty(names, root, "names in valid_paths.json"), path.name)
    found = folders(root, lambda folder: (folder / "000.npy").is_file()) if root.is_dir() else []
    return Listing(nonempty(found, root, "<id>/000.png, 000.npy ... and valid_paths.json"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet of all numbered views."""
    folder = root / name
    stems = numbered(folder, ".png", ".npy")
    if not stems:
        raise BadData(f"{name!r} holds no views (000.png, 000.npy ...)")
    poses, faults = each_pose(
        stems, lambda stem: from_world_to_camera_opengl(read_matrix(folder / f"{stem}.npy", (3, 4), WRONG_SHAPE))
    )
    files = [f"{stem}.png" for stem in stems]
    return {"": sheet(folder, files, poses, lens=square_lens(BLENDER_FOCAL), name=name, faults=faults)}


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One folder of images and matrices."""
    views = parts[""]
    one_lens(views, "zero123", square=True, focal=BLENDER_FOCAL)
    with atomic_folder(out / name, overwrite=True) as folder:
        write_pngs(folder, views)
        for index, matrix in enumerate(to_world_to_camera(opengl_poses(views))):
            np.save(folder / f"{index:03d}.npy", matrix)
        write_json(folder / PROVENANCE, made)


def finish(out: Path, listed: Listing) -> None:
    """valid_paths.json."""
    with atomic_file(out / "valid_paths.json") as temporary:
        write_json(temporary, list(listed.names))


LAYOUT = Layout(
    find=find,
    read=read,
    write=write,
    record=lambda out, name: out / name / PROVENANCE,
    finish=finish,
    places=lambda root, name: [root / name],
)
