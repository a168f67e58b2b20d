"""Checkpoints as folders that are either whole and verified, or not used.

    <run>/checkpoints/step_00000100/{model,ema,optimizer}.safetensors  optimizer.json  state.json  MANIFEST.json
    <run>/checkpoints/last          text: the name of the newest folder

`MANIFEST.json` is written last and holds the size and sha256 of every other file; a checkpoint is valid when it
verifies. A folder is written under a temporary name, flushed to the disk and renamed; only then `last` moves on. What
fails to verify is reported by name and cause, and never deleted.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.errors import BadCheckpoint, BadOutput
from core.files import atomic_file, atomic_folder, sha256_file

MANIFEST = "MANIFEST.json"
NEEDED = {"model.safetensors", "optimizer.json", "state.json"}
NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds: groups of named tensors, and what JSON can say."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    notes: dict[str, Any] = field(default_factory=dict)  # of the optimiser: what is not a tensor


def save(root: Path, snapshot: Snapshot) -> Path:
    """Writes `snapshot` as `root/step_<step>` and points `last` to it. Raises BadOutput; then nothing has changed."""
    folder = root / f"step_{snapshot.step:08d}"
    if folder.exists():
        if invalid(folder) is None:
            return folder
        _set_aside(folder)
    with atomic_folder(folder) as temporary:
        for name, tensors in snapshot.tensors.items():
            save_tensors(tensors, temporary / f"{name}.safetensors")
        save_json(snapshot.notes, temporary / "optimizer.json")
        save_json(snapshot.state, temporary / "state.json")
        names = sorted(path.name for path in temporary.iterdir())
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256_file(temporary / name)}
            for name in names
        }
        save_json({"step": snapshot.step, "files": files}, temporary / MANIFEST)
    with atomic_file(root / "last") as temporary:
        temporary.write_text(folder.name + "\n")
    return folder


def load(folder: Path) -> Snapshot:
    """Reads a checkpoint whose manifest verifies; raises BadCheckpoint with the cause otherwise."""
    cause = invalid(folder)
    if cause is not None:
        raise BadCheckpoint(
            f"checkpoint {str(folder)!r}: {cause}; use another one, or let the run choose (resume=auto)"
        )
    state = json.loads((folder / "state.json").read_text())
    notes = json.loads((folder / "optimizer.json").read_text())
    tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return Snapshot(json.loads((folder / MANIFEST).read_text())["step"], tensors, state, notes)


def invalid(folder: Path) -> str | None:
    """Why a checkpoint cannot be used; None when it verifies."""
    if not folder.is_dir():
        return "it is no folder" if folder.exists() else "there is no such folder"
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        if unlisted := NEEDED - files.keys():
            return f"{MANIFEST} does not list {min(unlisted)}"
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, its manifest says {expected['bytes']}"
            if sha256_file(path) != expected["sha256"]:
                return f"{name} differs from the sha256 in its manifest"
    except FileNotFoundError:
        return f"{MANIFEST} is missing, so it was never finished, or is no checkpoint"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    return None


def newest_valid(root: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint under `root` that verifies, and the cause of each newer one that does not."""
    causes: dict[str, str] = {}
    for folder in sorted(_folders(root), key=step_of, reverse=True):
        cause = invalid(folder)
        if cause is None:
            return folder, causes
        causes[folder.name] = cause
    return None, causes


def retire(root: Path, keep_last: int, keep_every: int | None, spare: set[str]) -> None:
    """Deletes all but the newest `keep_last` checkpoints, those of every `keep_every`-th step, and those in `spare`."""
    folders = sorted((folder for folder in _folders(root) if folder.name not in spare), key=step_of)
    for folder in folders[: max(0, len(folders) - keep_last)]:
        if keep_every is None or step_of(folder) % keep_every:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(root: Path) -> None:
    """Deletes what killed processes left under temporary names; the caller holds the run folder's lock."""
    for path in root.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    match = NAME.fullmatch(folder.name)
    assert match is not None, folder
    return int(match[1])


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir() and NAME.fullmatch(path.name)] if root.is_dir() else []


def _set_aside(folder: Path) -> None:
    """Frees the name of a broken checkpoint without deleting it."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.broken-{number}")).exists():
        number += 1
    folder.rename(target)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file; raises BadOutput."""
    # Each tensor gets memory of its own: safetensors refuses the shared memory of tied weights.
    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(apart, path, metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:  # it reports a full disk as an error of its own kind
        raise BadOutput(f"cannot write {str(path)!r}: {error}; free space or choose another output") from error


def save_json(content: Any, path: Path) -> None:
    """Writes readable JSON; a float comes back as the same float."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
