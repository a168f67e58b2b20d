"""Rendering toybox objects into a data folder; resumable, in parallel.

    <root>/recipe.json                     what the folder is made with; a folder never mixes two recipes
    <root>/{train,val,test}/<uid>/         target/ and input/ (view sets), caption.txt, mesh.ply, object.json
    <root>/index.json                      the uids of each split and the hash of their content; written last

An object is a pure function of (seed, split, number): it can be made again alone, and a larger data set begins with
a smaller one. `target` has SyncDreamer's 16 cameras, `input` the same azimuths with elevations drawn from -10 to 40
degrees, one per view (its rendering script's recipe).
"""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh

from core.cameras.poses import orbit
from core.cameras.rigs import rig
from core.data.conventions import SPLITS
from core.errors import BadOutput
from core.files import atomic_file
from core.render.raster import render_mesh
from core.types import Cameras, Mesh
from core.views import ViewSet, write_views
from data_tools.toybox.grammar import DISTANCE, sample_object
from data_tools.toybox.parts import ToyObject

INPUT_ELEVATIONS_DEG = (-10.0, 40.0)
# Version of everything that decides an object's content; raise it with any change to shapes, words, light or cameras.
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """What decides the content of a data folder, besides its size."""

    seed: int = 0
    image_size: int = 64
    supersample: int = 2
    version: int = VERSION


@dataclass(frozen=True)
class Sample:
    """One object with its cameras, before rendering."""

    uid: str
    toy: ToyObject
    mesh: Mesh
    targets: Cameras
    inputs: Cameras


def sample(recipe: Recipe, split: str, number: int) -> Sample:
    """The object with this number; a pure function of its arguments."""
    rng = np.random.default_rng([recipe.seed, SPLITS.index(split), number])
    toy = sample_object(rng)
    targets = rig("syncdreamer", size=recipe.image_size)
    elevations = torch.from_numpy(np.radians(rng.uniform(*INPUT_ELEVATIONS_DEG, size=len(targets))))
    azimuths = torch.arange(len(targets), dtype=torch.float64) * (2 * torch.pi / len(targets))
    poses = orbit(azimuths, elevations, torch.full_like(azimuths, DISTANCE)).float()
    inputs = Cameras(poses, targets.intrinsics, targets.width, targets.height)
    return Sample(uid(split, number), toy, toy.mesh(), targets, inputs)


def uid(split: str, number: int) -> str:
    return f"{split}-{number:05d}"


def write_object(root: Path, recipe: Recipe, split: str, number: int) -> None:
    """Render one object and write its folder, whole or not at all."""
    made = sample(recipe, split, number)
    both = Cameras(
        torch.cat([made.targets.poses, made.inputs.poses]),
        torch.cat([made.targets.intrinsics, made.inputs.intrinsics]),
        recipe.image_size,
        recipe.image_size,
    )
    images = render_mesh(made.mesh, both, supersample=recipe.supersample, cull_backfaces=True)
    final = root / split / made.uid
    part = final.with_name(f".{made.uid}.part")  # a killed maker's remains have a known name, and are replaced
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    provenance = {"program": "data_tools.toybox", "uid": made.uid, **asdict(recipe)}
    halves = images.split([len(made.targets), len(made.inputs)])
    for name, cameras, half in zip(("target", "input"), (made.targets, made.inputs), halves, strict=True):
        write_views(part / name, ViewSet(half, cameras, f"{made.uid} {name}", made.toy.caption, provenance))
    write_ply(part / "mesh.ply", made.mesh)
    (part / "caption.txt").write_text(made.toy.caption + "\n", encoding="utf-8")
    record = {"uid": made.uid, **made.toy.to_dict(), "sha256": content_hash(made, images)}
    (part / "object.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(final)


def write_ply(path: Path, mesh: Mesh) -> None:
    assert mesh.colors is not None
    colors = (mesh.colors * 255).round().to(torch.uint8)
    trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), vertex_colors=colors.numpy(), process=False).export(path)


def content_hash(made: Sample, images: torch.Tensor) -> str:
    """Hash of the caption, the mesh, the cameras and the 8-bit images: what files hold, whatever packs them."""
    digest = hashlib.sha256(made.toy.caption.encode())
    pixels = (images * 255).round().to(torch.uint8)
    for tensor in (made.mesh.vertices, made.mesh.faces, made.targets.poses, made.inputs.poses, pixels):
        digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def make(root: Path, recipe: Recipe, objects: Mapping[str, int], *, num_workers: int) -> Iterator[str]:
    """Make what is missing of a data folder, and its index; yields the split of each object as it is done.

    Args:
        objects: how many objects each split gets.
        num_workers: processes; with 0 everything happens in this one.
    """
    wanted = [(split, number) for split in SPLITS for number in range(objects.get(split, 0))]
    _claim(root, recipe)
    missing = []
    for split, number in wanted:
        if (root / split / uid(split, number)).is_dir():
            yield split
        else:
            missing.append((split, number))
    yield from write_all(partial(write_object, root, recipe), missing, num_workers)
    _write_index(root, recipe, wanted)


def write_all(write: Callable[[str, int], None], objects: Iterable[tuple[str, int]], num_workers: int) -> Iterator[str]:
    """Call `write(split, number)` for each object, in so many processes (0: in this one); yields the split of each."""
    if num_workers == 0:
        for split, number in objects:
            write(split, number)
            yield split
        return
    pool = ProcessPoolExecutor(num_workers, initializer=_start_worker)
    try:
        jobs = {pool.submit(write, split, number): split for split, number in objects}
        for job in as_completed(jobs):
            job.result()
            yield jobs[job]
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which lets running objects finish


def _claim(root: Path, recipe: Recipe) -> None:
    """Leave the recipe in a new folder, or refuse one that was begun with another."""
    path = root / "recipe.json"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadOutput(f"{str(path)!r} is unreadable ({error}); choose another out=") from error
        if found != asdict(recipe):
            raise BadOutput(f"{str(root)!r} holds a toybox of {found}, not of {asdict(recipe)}; choose another out=")
        return
    if any((root / split).exists() for split in SPLITS):
        raise BadOutput(f"{str(root)!r} holds other things than a toybox; choose another out=")
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(asdict(recipe), indent=1) + "\n", encoding="utf-8")


def _write_index(root: Path, recipe: Recipe, made: Iterable[tuple[str, int]]) -> None:
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    digest = hashlib.sha256()
    for split, number in made:
        record = json.loads((root / split / uid(split, number) / "object.json").read_text(encoding="utf-8"))
        splits[split].append(record["uid"])
        digest.update(record["sha256"].encode())
    index = {"seed": recipe.seed, "config": asdict(recipe), "sha256": digest.hexdigest(), "splits": splits}
    with atomic_file(root / "index.json") as temporary:
        temporary.write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
