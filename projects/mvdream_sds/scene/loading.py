"""Scenes that were optimised: a run of ours, finished or not, or what threestudio saved."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import load_strict
from core.config import instantiate
from core.errors import BadCheckpoint, MissingWeights
from core.files import sha256_file
from core.training import checkpoints
from core.training.publishing import RECORD_FILE
from projects.mvdream_sds.scene.cameras import OrbitCameras
from projects.mvdream_sds.scene.checkpoint import load_official_scene
from projects.mvdream_sds.scene.scene import Scene

SCENE = "scene."  # its place in what trains it
OFFICIAL_STEP = 10000  # a published checkpoint's name says it, not its content; it decides shading and levels


@dataclass(frozen=True)
class Loaded:
    """A scene, and where it comes from."""

    scene: Scene
    step: int
    prompt: str | None
    file: Path
    sha256: str
    orbit: Mapping[str, Any]  # the settings of its previews' cameras; empty for the official ones
    parts: Mapping[str, Any] | None = None  # the settings of its parts where they came from the command line

    @property
    def identity(self) -> dict[str, Any]:
        """What decides how it looks: a file, and the settings that are not in it."""
        return {"scene": self.sha256} | ({} if self.parts is None else {"parts": self.parts})

    def orbit_as(self, config: Mapping[str, Any], num_views: int, size: int | None) -> OrbitCameras:
        """An orbit with the elevation, distance and fov (degrees) of `config`, or its own where those are null."""
        wanted = {
            "elevation_deg": config["elevation"],
            "distance": config["distance"],
            "fovy_deg": config["fov"],
            "width": size,
            "height": size,
        }
        own = {name: self.orbit[name] for name in wanted if name in self.orbit}
        chosen = own | {name: value for name, value in wanted.items() if value is not None}
        return OrbitCameras(num_views=num_views, **chosen)


def load_run(run: Path, *, step: int | None = None) -> Loaded:
    """The scene of a run folder of `projects.mvdream_sds.train`, with the settings it was optimised with.

    Args:
        step: of the checkpoint; None takes the newest state, the finished weights if there are any.

    Raises MissingWeights where there is none (of that step), BadCheckpoint for a broken one.
    """
    weights, root = run / "weights" / "model.safetensors", run / "checkpoints"
    if step is not None:
        folder = root / f"step_{step:08d}"
        if not folder.is_dir():
            there = sorted(checkpoints.step_of(path) for path in root.glob("step_*") if _is_checkpoint(path))
            raise MissingWeights(f"{str(run)!r} holds no checkpoint of step {step}; there are {there or 'none'}")
        return _of_checkpoint(folder)
    newest, causes = checkpoints.newest_valid(root)
    if weights.is_file():
        record = _record(weights.with_name(RECORD_FILE))
        if newest is None or checkpoints.step_of(newest) <= record["step"]:
            return _loaded(record["config"], read_checkpoint(weights), record["step"], weights)
    if newest is None:
        broken = f" (broken: {', '.join(f'{name}: {cause}' for name, cause in causes.items())})" if causes else ""
        raise MissingWeights(
            f"run={run}: no checkpoint there{broken}; give the out= of projects.mvdream_sds.train once it has saved one"
        )
    return _of_checkpoint(newest)


def load_published(path: Path, scene: Mapping[str, Any]) -> Loaded:
    """threestudio's scene in a Lightning checkpoint; `scene` are the settings of its parts."""
    if not path.is_file():
        raise MissingWeights(f"no scene at {str(path)!r}; give threestudio's last.ckpt, or run=")
    built = build_scene(scene)
    load_official_scene(built, path)
    built.geometry.update_step(OFFICIAL_STEP)
    return Loaded(built, OFFICIAL_STEP, None, path, sha256_file(path), {}, scene)


def build_scene(settings: Mapping[str, Any]) -> Scene:
    """A scene with initial weights, which leaves torch's random state as it is."""
    with torch.random.fork_rng(devices=[]):
        return instantiate(settings)


def _is_checkpoint(path: Path) -> bool:
    """Not one that was set aside as broken."""
    return path.is_dir() and checkpoints.NAME.fullmatch(path.name) is not None


def _of_checkpoint(folder: Path) -> Loaded:
    snapshot = checkpoints.load(folder)
    return _loaded(snapshot.state["config"], snapshot.tensors["model"], snapshot.step, folder / "model.safetensors")


def _loaded(config: Mapping[str, Any], state: Mapping[str, Tensor], step: int, path: Path) -> Loaded:
    try:
        settings, prompt, orbit = config["model"]["scene"], config["data"]["prompt"], config["model"]["orbit"]
    except (LookupError, TypeError) as error:
        raise BadCheckpoint(f"{path}: was not made by projects.mvdream_sds.train, and holds no scene") from error
    scene = build_scene(settings)
    load_strict(scene, {n.removeprefix(SCENE): t for n, t in state.items() if n.startswith(SCENE)}, what=str(path))
    scene.geometry.update_step(step)
    return Loaded(scene, step, prompt, path, sha256_file(path), orbit)


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"config": record["config"], "step": int(record["step"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{path} is unreadable ({error}); start the run again, which writes it anew") from error
