"""Toybox objects from random poses: what models that take any pose learn from and are measured on.

<folder>/{train,val,test}/<uid>/     one view set (`rig=random`): any azimuth, elevations from -10 to 80 degrees
<folder>/<split>.cameras.npy         azimuth, elevation (radians) and distance, float32 [objects, views, 3]
<folder>/index.json                  the uids of each split and the hash of their content; written last

The objects and splits are the toybox's; their poses are a pure function of (seed, split, number), too. The distance is
SyncDreamer's: at 64 pixels a distance is hard to tell from a size.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.cameras.poses import spherical
from core.cameras.rigs import rig
from core.data.conventions import SPLITS
from core.data.toybox import read_index
from core.errors import BadData
from core.files import atomic_file
from core.render.raster import render_mesh
from core.types import Cameras
from core.views import PROVENANCE, TRANSFORMS, ViewSet, write_views
from data_tools.toybox.grammar import DISTANCE
from data_tools.toybox.make import Recipe, sample, write_all
from data_tools.toybox.official import claim

ELEVATIONS_DEG = (-10.0, 80.0)
STREAM = 1  # of an object's random numbers; the toybox draws from the one without a number


def cameras(recipe: Recipe, split: str, number: int, num_views: int) -> Cameras:
    """An object's random cameras; a pure function of the arguments."""
    seed = np.random.SeedSequence([recipe.seed, SPLITS.index(split), number, STREAM]).generate_state(1)[0]
    return rig(
        "random",
        size=recipe.image_size,
        num_views=num_views,
        seed=int(seed),
        elevation_deg=ELEVATIONS_DEG,
        distance=(DISTANCE, DISTANCE),
    )


def write_object(folder: Path, recipe: Recipe, num_views: int, split: str, number: int) -> None:
    """Render one object and write its view set, whole or not at all."""
    made, poses = sample(recipe, split, number), cameras(recipe, split, number, num_views)
    images = render_mesh(made.mesh, poses, supersample=recipe.supersample, cull_backfaces=True)
    digest = hashlib.sha256(poses.poses.numpy().tobytes())
    digest.update((images * 255).round().to(torch.uint8).numpy().tobytes())
    provenance = {
        "program": "data_tools.toybox",
        "uid": made.uid,
        **asdict(recipe),
        "num_views": num_views,
        "sha256": digest.hexdigest(),
    }
    write_views(folder / split / made.uid, ViewSet(images, poses, made.uid, made.toy.caption, provenance))


def write_free(root: Path, folder: Path, recipe: Recipe, *, num_views: int, num_workers: int) -> Iterator[str]:
    """Render the objects of a toybox folder from `num_views` random poses each; yields the split of each one.

    Finished ones are kept. BadOutput where objects of another toybox, or with other views, are.
    """
    toybox = read_index(root)
    claim(folder, {"toybox": toybox["sha256"], "num_views": num_views}, option="free")
    wanted = [(split, number) for split in SPLITS for number in range(len(toybox["splits"][split]))]
    missing = []
    for split, number in wanted:
        if (folder / split / toybox["splits"][split][number] / PROVENANCE).is_file():
            yield split
        else:
            missing.append((split, number))
    yield from write_all(partial(write_object, folder, recipe, num_views), missing, num_workers)
    digest = hashlib.sha256()
    for split, uids in toybox["splits"].items():
        read = [_read(folder / split / uid) for uid in uids]
        for sha256, _ in read:
            digest.update(sha256.encode())
        with atomic_file(folder / f"{split}.cameras.npy") as temporary, temporary.open("wb") as file:
            np.save(file, np.array([angles for _, angles in read], dtype=np.float32))
    index = {"seed": recipe.seed, "config": asdict(recipe), "num_views": num_views, "toybox": toybox["sha256"]}
    with atomic_file(folder / "index.json") as temporary:
        index |= {"sha256": digest.hexdigest(), "splits": toybox["splits"]}
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _read(folder: Path) -> tuple[str, list[list[float]]]:
    """A view set's hash, and its cameras' azimuths, elevations and distances."""
    try:
        sha256 = str(json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))["sha256"])
        transforms: dict[str, Any] = json.loads((folder / TRANSFORMS).read_text(encoding="utf-8"))
        centers = torch.tensor([frame["transform_matrix"] for frame in transforms["frames"]])[:, :3, 3]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadData(f"{str(folder)!r} is damaged ({error}); remove it and run data_tools.toybox again") from error
    return sha256, torch.stack(spherical(centers), dim=-1).tolist()
