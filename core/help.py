"""What `--help` prints: a program's own settings with the comments of its top file, then those of its groups."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from omegaconf import OmegaConf

from core.compose import composed
from core.program import Program, group_options, top_level

COLUMN = 27  # where comments begin, as in the files
FOOTER = """\
+experiment=<system>/<toybox|paper> sets a whole experiment; -m key=1,2 sweeps; --cfg job prints the settings
and stops; --dry-run checks them and stops; --debug shows tracebacks. A relative path means the folder you are in."""


def help_text(program: Program, overrides: Sequence[str]) -> str:
    """The help of a program, with the values that the overrides give."""
    path = program.conf / f"{program.config_name}.yaml"
    own = path.read_text(encoding="utf-8")
    stated, groups = top_level(path)
    read = [group for group, choice in groups.items() if choice]
    chosen = {override.lstrip("+").partition("=")[0] for override in overrides}
    left_open = [f"~{group}" for group, choice in groups.items() if choice == "???" and group not in chosen]
    cfg: Any = OmegaConf.to_container(composed(program, [*overrides, *left_open]), resolve=False)

    base = (program.conf / "base" / "app.yaml").read_text(encoding="utf-8")
    comments = dict(_comments(base.splitlines())) | dict(_comments(own.splitlines()))
    first = [key for key in yaml.safe_load(own) if key in stated]
    settings = {key: cfg[key] for key in [*first, *sorted(stated - {*first})]}
    sections = {key: value for key, value in cfg.items() if key in program.keys - stated}
    lines = [program.doc, "", "Settings (change one with key=value):", ""]
    for key, line in _keyed(_yaml(settings)):
        lines.append(f"{line + '  ':{COLUMN}}# {comments[key]}" if key in comments else line)
    if sections:
        lines += ["", "Settings of its groups:", "", *_yaml(sections)]
    if read:
        lines += ["", "Groups and their options (choose one with group=option):", ""]
        lines += [f"{group}: {', '.join(group_options(program, group))}" for group in [*read, "experiment"]]
    return "\n".join([*lines, "", FOOTER])


def _yaml(settings: dict[str, Any]) -> list[str]:
    return OmegaConf.to_yaml(OmegaConf.create(settings)).splitlines()


def _keyed(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each line of block YAML, after the dotted key that it begins; "" where it begins none."""
    open_keys: list[tuple[int, str]] = []
    for line in lines:
        match = re.match(r"( *)([\w-]+):", line)
        if match:
            indent = len(match[1])
            open_keys = [(i, key) for i, key in open_keys if i < indent] + [(indent, match[2])]
        yield ".".join(key for _, key in open_keys) if match else "", line


def _comments(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for key, line in _keyed(lines):
        comment = re.search(r"\s#\s(.*)", line)
        if key and comment:
            yield key, comment[1]
