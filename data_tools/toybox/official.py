"""Toybox objects in the layout of SyncDreamer's training data.

<folder>/target/<uid>/{000..015}.png     the fixed views, RGBA
<folder>/input/<uid>/{000..015}.png      the same azimuths, random elevations
<folder>/input/<uid>/meta.pkl            [K, azimuths, elevations, distances, poses], world-to-camera 3 x 4
<folder>/uid_set.pkl                     a list of uids
"""

import pickle
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.cameras.poses import spherical
from core.files import atomic_file
from core.views import read_views


def write_official(root: Path, folder: Path, split: str, uids: Sequence[str], *, size: int) -> Iterator[str]:
    """Convert objects of a toybox folder, resized to `size`; yields each uid as it is done. Finished ones are kept."""
    for uid in uids:
        for part in ("input", "target"):
            final = folder / part / uid
            if not final.exists():
                temporary = final.with_name(f".{uid}.part")
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                _write_views(root / split / uid / part, temporary, size, with_meta=part == "input")
                temporary.replace(final)
        yield uid
    with atomic_file(folder / "uid_set.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(list(uids)))


def _write_views(source: Path, folder: Path, size: int, *, with_meta: bool) -> None:
    cameras = read_views(source).cameras.scaled(size, size)
    for index in range(len(cameras)):
        with Image.open(source / "images" / f"{index:03d}.png") as image:
            image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    if with_meta:
        azimuths, elevations, distances = spherical(cameras.centers.double())
        meta = [
            cameras.intrinsics[0].numpy(),
            (azimuths % (2 * np.pi)).float().numpy(),
            elevations.float().numpy(),
            distances.numpy(),
            cameras.world_to_camera[:, :3].double().numpy(),
        ]
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
