"""SyncDreamer's training data (ldm/data/sync_dreamer.py, blender_script.py, render_batch.py of the official code).

<root>/target/<uid>/000.png ... 015.png     the fixed views: azimuth 22.5 degrees apart, 30 degrees high, distance 1.5
<root>/input/<uid>/000.png ... 015.png      the same azimuths, random elevations
<root>/input/<uid>/meta.pkl                 [K, azimuths, elevations, distances, poses]; radians, OpenCV world-to-camera
                                            3 x 4, world z up
<root>/uid_set.pkl                          a list of uids (or uid_set.txt, one a line; or neither: all folders)

The targets' cameras are stored nowhere, so a view set of other cameras is refused. Pickles are read without running
them.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.cameras.poses import from_world_to_camera, spherical
from core.cameras.rigs import BLENDER_FOCAL, rig
from core.checkpoints.datafiles import read_legacy_pickle, read_names
from core.errors import BadCamera, BadData, BadRequest
from core.files import atomic_file, atomic_folder
from core.types import Cameras
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import one_lens, opengl, square_lens
from data_tools.layouts._files import folders, nonempty, write_json, write_pngs
from data_tools.layouts._shared import Layout, Listing, Sheet, attempt, listing, sheet

NUM_VIEWS = 16
FILES = [f"{view:03d}.png" for view in range(NUM_VIEWS)]
K_SIDE = 256  # of the images that the official K is about
POSE_TOLERANCE = 1e-6


def find(root: Path) -> Listing:
    """The uids of the list; without a list, the folders in target/."""
    for name in ("uid_set.pkl", "uid_set.txt"):
        if (path := root / name).is_file():
            return listing(nonempty(read_names(path), root, f"names in {name}"), name)
    found = folders(root / "target", lambda _: True) if (root / "target").is_dir() else []
    return Listing(nonempty(found, root, "target/<uid>/000.png ..., input/<uid>/meta.pkl and uid_set.pkl"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """The parts `target` and `input`."""
    targets, inputs = root / "target" / name, root / "input" / name

    def target() -> Sheet:
        poses = opengl(rig("syncdreamer", size=K_SIDE).poses)
        return sheet(targets, FILES, poses, lens=square_lens(BLENDER_FOCAL), name=f"{name} target")

    def given() -> Sheet:
        focal, matrices = _read_meta(inputs / "meta.pkl")
        poses = opengl(from_world_to_camera(torch.from_numpy(matrices)))
        return sheet(inputs, FILES, poses, lens=square_lens(focal), name=f"{name} input")

    return {"target": attempt(target, targets), "input": attempt(given, inputs)}


def _read_meta(path: Path) -> tuple[float, np.ndarray]:
    """Focal length in image sides, and world-to-camera [16, 3, 4]; BadData where the entries contradict each other."""
    meta = read_legacy_pickle(path)
    shapes = [(3, 3), (NUM_VIEWS,), (NUM_VIEWS,), (NUM_VIEWS,), (NUM_VIEWS, 3, 4)]
    try:
        arrays = [np.asarray(entry, dtype=np.float64).reshape(shape) for entry, shape in zip(meta, shapes, strict=True)]
    except (TypeError, ValueError, KeyError) as error:
        wanted = "[K 3x3, azimuths, elevations, distances (16 each), poses 16x3x4]"
        raise BadData(f"{path.name} is not {wanted} ({error})") from error
    intrinsics, azimuths, elevations, distances, poses = arrays
    side = 2 * intrinsics[0, 2]
    centred = np.array([[intrinsics[0, 0], 0, side / 2], [0, intrinsics[0, 0], side / 2], [0, 0, 1]])
    if not np.isfinite(intrinsics).all() or side <= 0 or np.abs(intrinsics - centred).max() > 1e-3:
        raise BadData(f"{path.name}: K is {intrinsics.tolist()}; this layout's lens is square and centred")
    rotations = poses[:, :, :3]
    rigid = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) < 1e-3  # NaN: False
    centers = -np.einsum("nji,nj->ni", rotations, poses[:, :, 3])
    directions = np.stack(
        [np.cos(azimuths) * np.cos(elevations), np.sin(azimuths) * np.cos(elevations), np.sin(elevations)], axis=1
    )
    off = ~(np.abs(centers - distances[:, None] * directions).max(axis=1) < 1e-3) & rigid
    if off.any():
        raise BadData(
            f"{path.name}: view {int(off.argmax())} stands elsewhere by its pose than by its azimuth, elevation "
            "(radians) and distance; was it left from another rendering?"
        )
    return intrinsics[0, 0] / side, poses


def meta(cameras: Cameras) -> list[np.ndarray]:
    """What `meta.pkl` holds about an input's cameras."""
    azimuths, elevations, distances = spherical(cameras.centers.double())
    return [
        cameras.intrinsics[0].numpy(),
        (azimuths % (2 * np.pi)).float().numpy(),
        elevations.float().numpy(),
        distances.numpy(),
        cameras.world_to_camera[:, :3].double().numpy(),
    ]


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """Both folders of an object; the record goes into the target's, which is written last."""
    for part, views in parts.items():
        if len(views) != NUM_VIEWS:
            raise BadData(f"{part} has {len(views)} views; layout=syncdreamer holds {NUM_VIEWS}")
    target = parts["target"].cameras
    one_lens(parts["target"], "syncdreamer", square=True, focal=BLENDER_FOCAL)
    one_lens(parts["input"], "syncdreamer", square=True)
    off = (target.poses - rig("syncdreamer", size=K_SIDE).poses).abs().amax(dim=(1, 2)) > POSE_TOLERANCE
    if off.any():
        raise BadCamera(
            f"target view {int(off.nonzero()[0, 0])} is not SyncDreamer's; this layout stores no poses of targets, so "
            "they must be rig=syncdreamer's"
        )
    inputs = out / "input" / name
    if inputs.exists() and not (inputs / PROVENANCE).is_file():
        raise BadRequest(f"{str(inputs)!r} holds other things than this program makes; choose another out=")
    with atomic_folder(inputs, overwrite=True) as folder:
        write_pngs(folder, parts["input"])
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta(parts["input"].cameras)))
        write_json(folder / PROVENANCE, made)
    with atomic_folder(out / "target" / name, overwrite=True) as folder:
        write_pngs(folder, parts["target"])
        write_json(folder / PROVENANCE, made)


def finish(out: Path, listed: Listing) -> None:
    """uid_set.pkl."""
    with atomic_file(out / "uid_set.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(list(listed.names)))


LAYOUT = Layout(
    find=find,
    read=read,
    write=write,
    record=lambda out, name: out / "target" / name / PROVENANCE,
    finish=finish,
    parts=("target", "input"),
    places=lambda root, name: [root / part / name for part in ("target", "input")],
)
