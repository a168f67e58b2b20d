"""How many points COLMAP (Schoenberger and Frahm 2016) finds in the views of one object: SyncDreamer's consistency.

Views of different objects give few points or none. Read the count with the mean error: under wrong cameras (views in a
wrong order, say) two rays often pass near each other all the same, and such points are counted. A reconstruction that
fails is a result, 0 points with a cause, and no error; what the machine prevents (no memory, no time, a broken
installation) is no result. The real COLMAP runs, through the optional package `pycolmap`
(`pip install -e '.[colmap]'`).

Our points are the sparse ones, triangulated from SIFT features. SyncDreamer's paper counts points of a dense fusion
(patch matching), which needs a GPU build of COLMAP: do not put the two into one table.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from core.errors import BadConfig, UserError
from core.images import encode_png
from core.types import Cameras

# COLMAP aborts where it meets what it did not expect of the views: that is its answer.
OWN_ENDS = (-signal.SIGABRT, 128 + signal.SIGABRT)


@dataclass(frozen=True)
class Reconstruction:
    """What COLMAP found; `cause` says why where that is nothing."""

    num_points: int
    num_registered: int
    error_pixels: float | None
    cause: str = ""


def check_pycolmap() -> None:
    """BadConfig where the package is not installed, or cannot be loaded."""
    install = "pip install -c constraints.txt -e '.[colmap]'"
    if find_spec("pycolmap") is None:
        raise BadConfig(f"COLMAP needs the package pycolmap: {install}")
    if (fault := _fault_of_pycolmap()) is not None:
        raise BadConfig(f"pycolmap is installed but cannot be loaded ({fault}); install it again: {install}")


@cache
def _fault_of_pycolmap() -> str | None:
    """Of a process of its own, as COLMAP gets later: an extension that is broken may end the one that loads it."""
    command = [sys.executable, "-c", "import pycolmap"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else _last_words(done)


def colmap(
    images: Float[Tensor, "views 3 h w"],
    cameras: Cameras,
    *,
    poses: Literal["known", "unknown"] = "known",
    seed: int = 0,
    num_threads: int = 1,
    timeout_seconds: float = 600.0,
) -> Reconstruction:
    """Points from the features of all views.

    Args:
        images: opaque; COLMAP is given these pixels, in 8 bits, and no mask.
        poses: `known` triangulates with these cameras; `unknown` estimates the poses too (intrinsics stay).
        seed: of COLMAP's random sampling; with one thread the same result comes again.

    Raises BadConfig without pycolmap, UserError where the machine stopped it.
    """
    check_pycolmap()
    with tempfile.TemporaryDirectory(prefix="colmap-") as name:
        folder = Path(name)
        _write_job(folder, images, cameras, {"poses": poses, "seed": seed, "num_threads": num_threads})
        command = [sys.executable, str(Path(__file__).with_name("colmap_job.py")), name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"COLMAP took more than {timeout_seconds:g} seconds; is the machine busy?") from error
    if done.returncode in OWN_ENDS:
        return Reconstruction(0, 0, None, f"COLMAP ended itself: {_last_words(done)}")
    answer = done.stdout.strip().splitlines()
    if done.returncode or not answer:
        raise UserError(f"COLMAP did not get to an answer (code {done.returncode}): {_last_words(done)}")
    return Reconstruction(**json.loads(answer[-1]))


def _last_words(done: subprocess.CompletedProcess) -> str:
    return (done.stderr.strip().splitlines() or ["without a word"])[-1]


def _write_job(folder: Path, images: Tensor, cameras: Cameras, settings: Mapping[str, Any]) -> None:
    (folder / "images").mkdir()
    listed = []
    world_to_camera = cameras.world_to_camera.double()
    for number, image in enumerate(images):
        file = f"{number:03d}.png"
        (folder / "images" / file).write_bytes(encode_png(image))
        k = cameras.intrinsics[number].tolist()
        intrinsics = [k[0][0], k[1][1], k[0][2], k[1][2]]
        listed.append({"file": file, "intrinsics": intrinsics, "world_to_camera": world_to_camera[number].tolist()})
    (folder / "job.json").write_text(json.dumps({**settings, "views": listed}), encoding="utf-8")
