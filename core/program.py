"""What a program reads: its top file in conf/, and the groups that the file names. Imports no torch."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.config import CONF
from core.errors import BadConfig

LAUNCH = CONF.parent / "launch"  # Hydra finds its groups through `hydra.searchpath`, see `core.compose`


@dataclass(frozen=True)
class Program:
    """A program as `app` declares it."""

    config_name: str
    reads: tuple[str, ...] | None
    doc: str
    conf: Path = CONF
    check: Callable[[dict[str, Any]], None] | None = None

    @property
    def keys(self) -> set[str]:
        """The top-level keys that it reads."""
        stated, groups = top_level(self.conf / f"{self.config_name}.yaml")
        return stated | set(self.reads if self.reads is not None else (g for g, choice in groups.items() if choice))


@functools.cache
def top_level(path: Path) -> tuple[set[str], dict[str, str | None]]:
    """The top-level keys that a config file states, and the groups in its defaults with the option chosen.

    Defaults that are files of our own (`base/app`) count as part of the file.
    """
    if not path.is_file():
        options = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise BadConfig(f"no top file {path.name} in {path.parent.name}/; there are {options}")
    with path.open("rb") as file:
        content = yaml.safe_load(file) or {}
    if not isinstance(content, dict) or not isinstance(content.get("defaults", []), list):
        raise BadConfig(f"{path}: expected lines `key: value`, and a list of defaults")
    stated = set(content) - {"defaults", "hydra"}
    groups: dict[str, str | None] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str):
            included = path.parent / f"{entry.lstrip('/')}.yaml"
            if included.is_file():
                more_stated, more_groups = top_level(included)
                stated, groups = stated | more_stated, {**more_groups, **groups}
            continue
        for group, choice in entry.items():
            name = group.split()[-1].lstrip("/")
            if not name.startswith("hydra/") and not group.startswith("override "):
                package = name.rpartition("@")[2].partition("/")[0].partition(".")[0]
                groups[package] = choice or groups.get(package)
    return stated, groups


def known_top_level(conf: Path) -> set[str]:
    """Every top-level key that some program's top file has, as its own or as a group."""
    keys: set[str] = set()
    for path in conf.glob("*.yaml"):
        try:
            stated, groups = top_level(path)
            keys |= {*stated, *groups}
        except (BadConfig, yaml.YAMLError):  # another program's, half edited: it stops that program only
            keys |= set(re.findall(r"^(\w+):", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    return keys


def group_options(program: Program, group: str) -> list[str]:
    """A group's options, those in sub-folders too."""
    roots = [root / group for root in (program.conf, LAUNCH)]
    files = {file.relative_to(root) for root in roots for file in root.rglob("*.yaml")}
    return sorted(file.with_suffix("").as_posix() for file in files)
