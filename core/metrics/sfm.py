"""How many points COLMAP (Schoenberger and Frahm 2016) finds in the views of one object: SyncDreamer's consistency.

Views that do not agree give few points or none. A reconstruction that fails is a result, 0 points with a cause, and
no error. The real COLMAP runs, through the optional package `pycolmap` (`pip install -e '.[colmap]'`).

Our points are the sparse ones, triangulated from SIFT features. SyncDreamer's paper counts points of a dense fusion
(patch matching), which needs a GPU build of COLMAP: do not put the two into one table.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from core.errors import BadConfig
from core.images import encode_png
from core.views import ViewSet


@dataclass(frozen=True)
class Reconstruction:
    """What COLMAP found; `cause` says why where that is nothing."""

    num_points: int
    num_registered: int
    error_pixels: float | None
    cause: str = ""


def check_pycolmap() -> None:
    """BadConfig where the package is not installed."""
    if find_spec("pycolmap") is None:
        raise BadConfig("COLMAP needs the package pycolmap: pip install -c constraints.txt -e '.[colmap]'")


def colmap(
    views: ViewSet,
    *,
    poses: Literal["known", "unknown"] = "known",
    background: float = 1.0,
    seed: int = 0,
    num_threads: int = 1,
    timeout_seconds: float = 600.0,
) -> Reconstruction:
    """Points from the features of all views.

    Args:
        poses: `known` triangulates with the views' own cameras; `unknown` estimates the poses too (intrinsics stay).
        background: gray value under the object.
        seed: of COLMAP's random sampling; with one thread the same result comes again.

    Raises BadConfig without pycolmap.
    """
    check_pycolmap()
    with tempfile.TemporaryDirectory(prefix="colmap-") as name:
        folder = Path(name)
        _write_job(folder, views, poses, background, seed, num_threads)
        command = [sys.executable, str(Path(__file__).with_name("colmap_job.py")), name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired:
            return Reconstruction(0, 0, None, f"COLMAP took more than {timeout_seconds:g} seconds")
    answer = done.stdout.strip().splitlines()
    if done.returncode or not answer:
        said = (done.stderr.strip().splitlines() or ["without a word"])[-1]
        return Reconstruction(0, 0, None, f"COLMAP ended with code {done.returncode}: {said}")
    return Reconstruction(**json.loads(answer[-1]))


def _write_job(folder: Path, views: ViewSet, poses: str, background: float, seed: int, num_threads: int) -> None:
    (folder / "images").mkdir()
    listed = []
    world_to_camera = views.cameras.world_to_camera.double()
    for number, image in enumerate(views.rgb(background)):
        file = f"{number:03d}.png"
        (folder / "images" / file).write_bytes(encode_png(image))
        k = views.cameras.intrinsics[number].tolist()
        intrinsics = [k[0][0], k[1][1], k[0][2], k[1][2]]
        listed.append({"file": file, "intrinsics": intrinsics, "world_to_camera": world_to_camera[number].tolist()})
    job = {"poses": poses, "seed": seed, "num_threads": num_threads, "views": listed}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
