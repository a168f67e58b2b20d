"""Cap3D's eight renderings of each object, one folder per view (captioning_pipeline/render_script.py of Cap3D).

<root>/Cap3D_imgs_view{0..7}/<uid>_{k}.png            on white, alpha absent or 1 everywhere (.jpeg and .jpg are read
                                                      too, and <uid>.jpg, as Bootstrap3D has them for views 0, 1, 4, 5)
<root>/Cap3D_imgs_view{k}_CamMatrix/<uid>_{k}.npy     world-to-camera 3 x 4, OpenGL axes, world z up

The lens is stored nowhere: it is Blender's default (50 mm on 36 mm). As there is no alpha, reading needs mask=. Writing
lays the views on white: alpha and the colours under it are lost.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadData, BadRequest
from core.files import atomic_file, natural_key
from core.images import encode_png
from core.views import ViewSet
from data_tools.layouts._cameras import (
    from_world_to_camera_opengl,
    one_lens,
    opengl_poses,
    square_lens,
    to_world_to_camera,
)
from data_tools.layouts._files import folders, nonempty, read_matrix, write_json
from data_tools.layouts._shared import Layout, Listing, Sheet, each_pose, sheet

FOCAL = 50 / 36  # in image sides
SUFFIXES = (".png", ".jpeg", ".jpg")
VIEW = re.compile(r"Cap3D_imgs_view(\d+)")
NUM_VIEWS = 8


def _views(root: Path) -> list[int]:
    """The views that have a folder."""
    found = folders(root, lambda folder: VIEW.fullmatch(folder.name) is not None) if root.is_dir() else []
    return sorted(int(VIEW.fullmatch(name)[1]) for name in found)  # type: ignore[index]


def find(root: Path) -> Listing:
    """Every object that any view's folder has an image of."""
    names: set[str] = set()
    for view in _views(root):
        for path in (root / f"Cap3D_imgs_view{view}").iterdir():
            if path.suffix in SUFFIXES and not path.name.startswith("."):
                names.add(path.stem.removesuffix(f"_{view}"))
    return Listing(nonempty(sorted(names, key=natural_key), root, "Cap3D_imgs_view0/<uid>_0.png ..."))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet, of the views that have a folder."""

    def pose(view: int) -> np.ndarray:
        path = root / f"Cap3D_imgs_view{view}_CamMatrix" / f"{name}_{view}.npy"
        return from_world_to_camera_opengl(read_matrix(path, (3, 4)))

    files = [_image(root, view, name) for view in _views(root)]
    poses, faults = each_pose(_views(root), pose)
    made = sheet(root, files, poses, lens=square_lens(FOCAL), name=name, faults=faults)
    return {"": replace(made, alpha=False)}


def _image(root: Path, view: int, name: str) -> str:
    folder = f"Cap3D_imgs_view{view}"
    wanted = [f"{folder}/{stem}{suffix}" for stem in (f"{name}_{view}", name) for suffix in SUFFIXES]
    return next((file for file in wanted if (root / file).is_file()), wanted[0])


def _record(out: Path, name: str) -> Path:
    return out / "provenance" / f"{name}.json"


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """A file in each view's folders. An empty record comes first, as a claim to these files, and the real one last."""
    views = parts[""]
    one_lens(views, "cap3d", square=True, focal=FOCAL)
    if len(views) > NUM_VIEWS:
        raise BadData(f"{len(views)} views; layout=cap3d holds {NUM_VIEWS}")
    if not _record(out, name).is_file():
        if there := [file for view in range(NUM_VIEWS) if (out / (file := _image(out, view, name))).is_file()]:
            raise BadRequest(f"{str(out / there[0])!r} is there already, made by another program; choose another out=")
        _write_record(out, name, {})
    for index, (image, matrix) in enumerate(zip(views.rgb(), to_world_to_camera(opengl_poses(views)), strict=True)):
        with atomic_file(out / f"Cap3D_imgs_view{index}" / f"{name}_{index}.png") as temporary:
            temporary.write_bytes(encode_png(image))
        with atomic_file(out / f"Cap3D_imgs_view{index}_CamMatrix" / f"{name}_{index}.npy") as temporary:
            np.save(temporary, matrix)
    _write_record(out, name, made)


def _write_record(out: Path, name: str, made: dict[str, Any]) -> None:
    with atomic_file(_record(out, name)) as temporary:
        write_json(temporary, made)


LAYOUT = Layout(find=find, read=read, write=write, record=_record)
