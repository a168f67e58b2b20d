"""ViewFusion's renderings of Google Scanned Objects: images, and where each camera stands in angles.

<root>/<model>/000.png ... 011.png    RGBA
<root>/<model>/angles.json            {"0": {"angle": [azimuth, polar angle from +z, distance]}, ...}; radians, z up

Cameras face the origin, upright; the lens is Blender's 35 mm on 32 mm. Other cameras are refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.cameras.poses import orbit, spherical
from core.cameras.rigs import BLENDER_FOCAL
from core.errors import BadCamera, BadData
from core.files import atomic_folder
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import one_lens, opengl, square_lens
from data_tools.layouts._files import folders, nonempty, numbered, read_json, write_json, write_pngs
from data_tools.layouts._shared import Layout, Listing, Sheet, each_pose, sheet

POSE_TOLERANCE = 1e-5  # a view set's poses have gone through float32


def find(root: Path) -> Listing:
    """All folders that hold an angles.json."""
    found = folders(root, lambda folder: (folder / "angles.json").is_file()) if root.is_dir() else []
    return Listing(nonempty(found, root, "<model>/000.png ... and angles.json"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet of the views that angles.json or an image name."""
    folder = root / name
    angles = read_json(folder / "angles.json")
    keys = sorted({str(int(stem)) for stem in numbered(folder, ".png")} | set(angles), key=_number)
    if not keys:
        raise BadData(f"{name!r} holds no views (000.png ..., angles.json)")
    poses, faults = each_pose(keys, lambda key: _pose(angles, key))
    files = [f"{_number(key):03d}.png" for key in keys]
    return {"": sheet(folder, files, poses, lens=square_lens(BLENDER_FOCAL), name=name, faults=faults)}


def _number(key: str) -> int:
    if not key.isascii() or not key.isdigit():
        raise BadData(f"angles.json has the key {key!r}; views are numbered")
    return int(key)


def _pose(angles: Mapping[str, Any], key: str) -> np.ndarray:
    try:
        azimuth, polar, distance = (float(value) for value in angles[key]["angle"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadData(f"angles.json has no [azimuth, polar angle, distance] for {key!r}") from error
    if not 0 <= polar <= np.pi or not distance > 0:
        raise BadData(f"angles.json: polar angle {polar:g} and distance {distance:g}; radians from +z, and positive")
    position = torch.tensor([azimuth, np.pi / 2 - polar, distance], dtype=torch.float64)
    return opengl(orbit(*position)[None])[0]


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One folder of images and angles.json."""
    views = parts[""]
    one_lens(views, "viewfusion_gso", square=True, focal=BLENDER_FOCAL)
    azimuths, elevations, distances = spherical(views.cameras.centers.double())
    off = (orbit(azimuths, elevations, distances) - views.cameras.poses).abs().amax(dim=(1, 2)) > POSE_TOLERANCE
    if off.any():
        raise BadCamera(
            f"view {int(off.nonzero()[0, 0])} does not face the origin upright; layout=viewfusion_gso holds angles only"
        )
    rows = torch.stack([azimuths, torch.pi / 2 - elevations, distances], dim=1).tolist()
    with atomic_folder(out / name, overwrite=True) as folder:
        write_pngs(folder, views)
        write_json(folder / "angles.json", {str(index): {"angle": row} for index, row in enumerate(rows)})
        write_json(folder / PROVENANCE, made)


LAYOUT = Layout(find=find, read=read, write=write, record=lambda out, name: out / name / PROVENANCE)
