"""Blender's Cycles as an engine, in a process of its own: the `bpy` package, or a `blender` program.

It reads the mesh file itself, so that Cycles sees its materials, and is told how to place it and where the cameras
stand (`blender_script.py`). Light: nothing but a constant world background of 0.5 gray. Colours: Blender's "Standard"
view, that is plain sRGB. The other settings are those of SyncDreamer's and Zero-1-to-3's renderings: the CPU,
transparent film, filter width 0.01, 1 diffuse and glossy bounce, 3 transparent and transmission ones.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from core.cameras.poses import to_opengl
from core.errors import BadMesh, BadRequest
from core.images import read_image
from core.srgb import to_linear
from data_tools.render.engines import Rendering, Request
from data_tools.render.surface import GRAY

SCRIPT = Path(__file__).with_name("blender_script.py")
SENSOR_MM = 32.0  # only the ratio of lens and sensor counts
# A file's axes -> the world (z up), for each upward axis of a file; and Blender's own glTF importer's turn.
WORLD_FROM_FILE = {"z": np.eye(3), "y": np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])}
BLENDER_FROM_GLTF = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


def find_blender(executable: str | None) -> list[str]:
    """The command that runs a script with Blender's Python, but for the script; BadRequest when there is none."""
    if executable is not None and shutil.which(executable) is None:
        raise BadRequest(f"blender.executable={executable}: no such program; give the path of Blender's")
    if executable is None and importlib.util.find_spec("bpy") is not None:
        return [sys.executable, "-P"]  # -P: the modules beside the script stay out of its way
    if found := executable or shutil.which("blender"):
        return [found, "-b", "--factory-startup", "--python-exit-code", "1", "-P"]
    raise BadRequest(
        "engine=blender: neither the bpy package nor a blender program on PATH; install one (pip install -c "
        "constraints.txt -e '.[blender]' under Python 3.11; Debian: blender and python3-numpy), give "
        "blender.executable=PATH, or use engine=cpu"
    )


def check_blender(executable: str | None, *, denoise: bool) -> None:
    """BadRequest where Blender is missing, cannot start, or cannot do what it is to do."""
    version, can_denoise = _ask_blender(executable)
    if denoise and not can_denoise:
        raise BadRequest(f"blender.denoise=true: this Blender {version} was built without; give blender.denoise=false")


@cache
def _ask_blender(executable: str | None) -> tuple[str, bool]:
    """Its version, such as "4.2.0", and whether it can denoise; BadRequest where it does not start."""
    command = find_blender(executable)
    # numpy: Debian's may lack it, and the script and the glTF importer want it.
    say = "import bpy, _cycles, numpy; print('found', bpy.app.version_string, _cycles.with_openimagedenoise)"
    ask = [*command[:-1], "--python-expr", say] if "-b" in command else [*command, "-c", say]
    done = subprocess.run(ask, capture_output=True, text=True, errors="replace", check=False)
    answers = [line.split() for line in done.stdout.splitlines() if line.startswith("found ")]
    if done.returncode != 0 or not answers:
        raise BadRequest(f"engine=blender: {_what_failed(ask[0], done)}; repair it, or use engine=cpu")
    return answers[0][1], answers[0][-1] == "True"


def render_blender(request: Request) -> Rendering:
    """Draw one object in a Blender process; BadMesh with the last line of what it said when that fails."""
    executable = request.options["executable"]
    with tempfile.TemporaryDirectory(prefix="turntable-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(_job(request, folder)), encoding="utf-8")
        command = [*find_blender(executable), str(SCRIPT), "--", str(folder / "job.json")]
        own = os.environ | {"TMPDIR": name}  # Blender leaves a folder of its own there
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=own)
        views = range(len(request.cameras))
        images = [folder / f"{view:03d}.png" for view in views]
        if done.returncode != 0 or not all(path.exists() for path in images):
            raise BadMesh(f"Blender could not render {request.path.name!r}: {_what_failed('its process', done)}")
        depth, normals = None, None
        if request.depth or request.normals:
            maps = torch.from_numpy(np.stack([np.load(folder / f"{view:03d}.npy") for view in views]))
            depth, normals = _split(maps, request)
        drawn = torch.stack([read_image(path) for path in images])
        return Rendering(drawn, depth, normals, made_by=f"Blender {_ask_blender(executable)[0]}")


def _what_failed(program: str, done: subprocess.CompletedProcess[str]) -> str:
    """One line: the last thing that a process said, and how it ended."""
    if done.returncode < 0:
        return f"{program} was ended by signal {-done.returncode}; out of memory?"
    said = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return f"{said[-1] if said else program + ' said nothing'} (exit code {done.returncode})"


def object_matrix(request: Request) -> Float[np.ndarray, "4 4"]:
    """Where Blender is to put what its importer made: its world -> the file's axes -> ours -> normalised."""
    imported = BLENDER_FROM_GLTF if request.path.suffix.lower() == ".glb" else np.eye(3)
    turn, found = WORLD_FROM_FILE[request.surface.up] @ imported.T, request.normalisation
    matrix = np.eye(4)
    matrix[:3, :3] = found.scale * turn
    matrix[:3, 3] = found.scale * np.array(found.offset)
    return matrix


def _job(request: Request, folder: Path) -> dict[str, Any]:
    cameras, vertices = request.cameras, request.surface.mesh.vertices
    focal = cameras.intrinsics[:, 0, 0].double() / cameras.width
    return {
        "mesh": str(request.path.resolve()),
        "matrix": object_matrix(request).tolist(),
        "bounds": [vertices.amin(0).tolist(), vertices.amax(0).tolist()],
        "gray": to_linear(torch.tensor(GRAY)).item(),
        "out": str(folder),
        "size": [cameras.width, cameras.height],
        "poses": to_opengl(cameras.poses).double().tolist(),  # Blender's cameras have OpenGL's axes
        "sensor": SENSOR_MM,
        "lenses": (focal * SENSOR_MM).tolist(),
        "maps": request.depth or request.normals,
        "samples": request.options["samples"],
        "denoise": request.options["denoise"],
        "threads": request.options["threads"],
    }


def _split(
    maps: Float[torch.Tensor, "num_views height width 5"], request: Request
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Depth [v, h, w] and normals [v, 3, h, w] in camera axes, of maps of depth, world normal and coverage."""
    seen = maps[..., 4] > 0.5
    depth = torch.where(seen, maps[..., 0], 0.0)
    in_camera = maps[..., 1:4].to(request.cameras.poses) @ to_opengl(request.cameras.poses)[:, None, :3, :3]
    normals = torch.where(seen[..., None], torch.nn.functional.normalize(in_camera, dim=-1), 0.0).permute(0, 3, 1, 2)
    return depth if request.depth else None, normals if request.normals else None
