"""Where a result comes from: code, settings, weights, seed, versions and command."""

import hashlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from core.files import sha256_file

PACKAGES = ("torch", "numpy", "diffusers", "transformers", "lightning", "hydra-core", "safetensors", "trimesh")
VOLATILE = ("out",)  # settings that say where a result goes, not what it is
_kept: ContextVar[list[bool] | None] = ContextVar("kept", default=None)


def provenance(
    config: Mapping[str, Any] | None, *, weights: Iterable[Path] = (), seed: int | None = None
) -> dict[str, Any]:
    """The record that accompanies every result, as JSON values.

    Args:
        config: The resolved settings, or None where there are none.
        weights: The files that were loaded; recorded by name and sha256.
        seed: The run's seed.
    """
    return {
        "code": code_version(),
        "config": config,
        "config_hash": config_hash(config) if config is not None else None,
        "weights": {path.name: sha256_file(path) for path in map(Path, weights)},
        "seed": seed,
        "versions": versions(),
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def keep_earlier_record() -> None:
    """Say that this run made nothing: the record of the run that made what its folder holds stays (`core.app`)."""
    if (said := _kept.get()) is not None:
        said.append(True)


@contextmanager
def listening_for_keep() -> Iterator[list[bool]]:
    """Yields a list that is not empty once `keep_earlier_record` was called within the block."""
    said: list[bool] = []
    token = _kept.set(said)
    try:
        yield said
    finally:
        _kept.reset(token)


def config_hash(config: Mapping[str, Any]) -> str:
    """sha256 of the settings as canonical JSON, without the output folder."""
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_version() -> dict[str, Any]:
    """The release and, in a checkout, the commit and whether tracked files differ from it (null: not a checkout)."""
    root = Path(__file__).resolve().parent.parent
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "turntable": _installed("turntable") or "checkout",
        "commit": commit,
        "modified": None if changes is None else bool(changes),
    }


def versions() -> dict[str, str]:
    """Python's and the main packages' versions, without importing them."""
    found = {name: _installed(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: number for name, number in found.items() if number is not None},
    }


def command() -> str:
    """The command line as one could type it again."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    typed = [word for word in sys.argv[1:] if not word.startswith("hydra.searchpath=")]  # the wrapper's own addition
    return shlex.join([*program, *typed])


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    """A git command's output, or None where there is no git, no checkout or no commit."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
