"""Cap3D's later renderings: one folder per object, each image with a JSON file about its camera (as Point-E's scripts).

<root>/<uid>/00000.png ...     RGBA (00000_depth.png and 00000_MatAlpha.png beside it are not read)
<root>/<uid>/00000.json ...    {"x_fov", "y_fov": radians, "origin": the camera, "x": right, "y": down, "z": forward,
                               "bbox": [min, max]}, world z up
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadData
from core.files import atomic_folder
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import angle_x, opengl_poses
from data_tools.layouts._files import folders, nonempty, numbered, read_json, write_json, write_pngs
from data_tools.layouts._shared import Layout, Listing, Sheet, each_pose, sheet

HALF_EXTENT = 0.5  # of the box that their objects are scaled to


def find(root: Path) -> Listing:
    """All folders that hold a 00000.json."""
    found = folders(root, lambda folder: (folder / "00000.json").is_file()) if root.is_dir() else []
    return Listing(nonempty(found, root, "<uid>/00000.png, 00000.json ..."))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet of all numbered views."""
    folder = root / name
    angles: dict[str, float] = {}

    def pose(stem: str) -> np.ndarray:
        matrix, angles[stem] = _camera(folder / f"{stem}.json")
        return matrix

    stems = numbered(folder, ".png", ".json")
    poses, faults = each_pose(stems, pose)
    made = sheet(folder, [f"{stem}.png" for stem in stems], poses, lens={}, name=name, faults=faults)
    for stem, frame in zip(stems, made.transforms["frames"], strict=True):
        frame["camera_angle_x"] = angles.get(stem, 1.0)  # a missing one is among the faults
    return {"": made}


def _camera(path: Path) -> tuple[np.ndarray, float]:
    """OpenGL camera-to-world and horizontal angle."""
    if not path.is_file():
        raise BadData(f"{path.name} is missing")
    info = read_json(path)
    try:
        columns = [np.asarray(info[key], dtype=np.float64).reshape(3) for key in ("x", "y", "z", "origin")]
        angle = float(info["x_fov"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"{path.name} lacks x, y, z, origin (three numbers each) or x_fov") from error
    if not 0 < angle < math.pi:
        raise BadData(f"{path.name}: x_fov={angle:g} is no angle in radians")
    pose = np.eye(4)
    pose[:3] = np.stack(columns, axis=1) * [1.0, -1.0, -1.0, 1.0]  # theirs are OpenCV's axes
    return pose, angle


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One folder of images and cameras."""
    views = parts[""]
    x_fov = angle_x(views, "cap3d_objects")
    y_fov = 2 * math.atan(math.tan(x_fov / 2) * views.cameras.height / views.cameras.width)
    box = [[-HALF_EXTENT] * 3, [HALF_EXTENT] * 3]
    with atomic_folder(out / name, overwrite=True) as folder:
        write_pngs(folder, views, "{:05d}.png")
        for index, pose in enumerate(opengl_poses(views)):
            right, up, backward, origin = (pose[:3, column] for column in range(4))
            axes = {"x": right.tolist(), "y": (-up).tolist(), "z": (-backward).tolist(), "origin": origin.tolist()}
            info = {"bbox": box, "x_fov": x_fov, "y_fov": y_fov, **axes}
            write_json(folder / f"{index:05d}.json", info)
        write_json(folder / PROVENANCE, made)


LAYOUT = Layout(find=find, read=read, write=write, record=lambda out, name: out / name / PROVENANCE)
