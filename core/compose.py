"""A program's settings as Hydra composes them, before anything is checked. Imports no torch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from core.program import LAUNCH, Program


def composed(program: Program, overrides: Sequence[str], flags: Any = None) -> DictConfig:
    """The whole config as Hydra composes it, its own `hydra` section included; `flags` may name other files."""
    name = getattr(flags, "config_name", None) or program.config_name
    folder = Path(getattr(flags, "config_path", None) or program.conf).resolve()
    extra = getattr(flags, "config_dir", None)
    with _beside_a_running_program(), initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=[*overrides, *searchpath(overrides, extra)], return_hydra_config=True)


@contextmanager
def _beside_a_running_program() -> Iterator[None]:
    """Hydra knows one config folder at a time; a program that runs under it may compose another program's settings."""
    hydra = GlobalHydra.instance()
    running, hydra.hydra = hydra.hydra, None
    try:
        yield
    finally:
        hydra.hydra = running


def searchpath(overrides: Sequence[str], extra: str | None = None) -> list[str]:
    """The override by which Hydra finds the launchers and sweeps in launch/, unless the user gives a search path."""
    if any(override.startswith("hydra.searchpath=") for override in overrides):
        return []
    folders = ["pkg://launch", *([f"'file://{Path(extra).resolve()}'"] if extra else [])]
    return [f"hydra.searchpath=[{','.join(folders)}]"]


def flat(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key, without resolving any value."""
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node: Any = cfg._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_missing() or node._is_none() or node._is_interpolation()):
            yield from flat(node, f"{prefix}{key}.")


def group_choices(program: Program, overrides: Sequence[Override]) -> list[str]:
    """The overrides that choose an option of a group."""
    chosen = []
    for override in overrides:
        key = override.key_or_group.partition("@")[0]
        if "." not in key and any((root / key).is_dir() for root in (program.conf, LAUNCH)):
            chosen.append(str(override.input_line))
    return chosen
