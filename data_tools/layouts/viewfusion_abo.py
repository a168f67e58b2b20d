"""ViewFusion's own renderings of ABO: as Zero-1-to-3's, but 4 x 4 camera-to-world matrices (objaverse-rendering/).

<root>/<id>/000.png, 000.npy ...    RGBA, and Blender's `matrix_world`, 4 x 4 camera-to-world, OpenGL axes, world z up

The lens is Blender's 35 mm on 32 mm, as Zero-1-to-3's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.cameras.rigs import BLENDER_FOCAL
from core.files import atomic_folder
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import one_lens, opengl_poses, square_lens
from data_tools.layouts._files import folders, nonempty, numbered, read_matrix, write_json, write_pngs
from data_tools.layouts._shared import Layout, Listing, Sheet, each_pose, sheet

WRONG_SHAPE = "3x4 world-to-camera matrices are layout=zero123"


def find(root: Path) -> Listing:
    """All folders that hold a 000.npy."""
    found = folders(root, lambda folder: (folder / "000.npy").is_file()) if root.is_dir() else []
    return Listing(nonempty(found, root, "<id>/000.png, 000.npy ..."))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet of all numbered views."""
    folder = root / name
    stems = numbered(folder, ".png", ".npy")
    poses, faults = each_pose(stems, lambda stem: read_matrix(folder / f"{stem}.npy", (4, 4), WRONG_SHAPE))
    files = [f"{stem}.png" for stem in stems]
    return {"": sheet(folder, files, poses, lens=square_lens(BLENDER_FOCAL), name=name, faults=faults)}


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One folder of images and matrices."""
    views = parts[""]
    one_lens(views, "viewfusion_abo", square=True, focal=BLENDER_FOCAL)
    with atomic_folder(out / name, overwrite=True) as folder:
        write_pngs(folder, views)
        for index, pose in enumerate(opengl_poses(views)):
            np.save(folder / f"{index:03d}.npy", pose)
        write_json(folder / PROVENANCE, made)


LAYOUT = Layout(find=find, read=read, write=write, record=lambda out, name: out / name / PROVENANCE)
