"""What is wrong with one object of a data set: every program's judgement (`judge`) by part, and what was asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from core.views import ViewSet
from data_tools.layouts import load
from data_tools.layouts._shared import Sheet, images_digest, judge


@dataclass(frozen=True)
class Expected:
    """What every view set of a data set must be; None: anything.

    Args:
        layout: the layout's name.
        mask: how the object is found in images without alpha (core.foreground); without it they are broken.
        size: width and height of the images in pixels.
        num_views: of each part.
    """

    layout: str
    mask: str | None = None
    size: int | None = None
    num_views: int | None = None


class Finding(NamedTuple):
    """One thing that is wrong. `view` is None where it is about the whole part, `part` "" where about all of it."""

    object: str
    part: str
    view: int | None
    reason: str


def check_object(root: Path, name: str, expected: Expected) -> tuple[list[Finding], str]:
    """Everything wrong with one object, and a hash of its images ("" where anything is wrong)."""
    try:
        sheets = load(expected.layout).read(root, name)
    except UserError as error:
        return [Finding(name, "", None, str(error))], ""
    findings = judge_sheets(name, sheets, expected)
    return findings, "" if findings else " ".join(images_digest(sheet) for sheet in sheets.values())


def judge_sheets(name: str, sheets: Mapping[str, Sheet], expected: Expected) -> list[Finding]:
    """Everything wrong with an object's view sets."""
    findings = []
    for part, sheet in sheets.items():
        views, faults = judge(sheet, expected.mask)
        faults = faults if views is None else [*_wrong_form(views, expected), *faults]
        findings += [Finding(name, part, *_split(fault)) for fault in faults]
    return findings


def _split(fault: str) -> tuple[int | None, str]:
    """`view 3: no image` -> 3, `no image`."""
    match = re.match(r"view (\d+): (.*)", fault, re.DOTALL)
    return (int(match[1]), match[2]) if match else (None, fault)


def _wrong_form(views: ViewSet, expected: Expected) -> list[str]:
    """Another size or number of views than every object must have."""
    faults = []
    width, height = views.cameras.width, views.cameras.height
    if expected.size is not None and (width, height) != (expected.size, expected.size):
        faults.append(f"the images are {width} x {height} instead of {expected.size} x {expected.size}")
    if expected.num_views is not None and len(views) != expected.num_views:
        faults.append(f"{len(views)} views instead of {expected.num_views}")
    return faults


def check_splits(splits: dict[str, Sequence[str]]) -> list[Finding]:
    """Objects that stand in more than one split, by the last part of their names."""
    found: dict[str, list[tuple[str, str]]] = {}
    for split, names in splits.items():
        for name in dict.fromkeys(names):
            folder, _, rest = name.partition("/")
            found.setdefault(rest if folder in splits else name, []).append((split, name))
    return [
        Finding(name, "", None, f"is in the splits {' and '.join(split for split, _ in places)}")
        for places in found.values()
        if len(places) > 1
        for name in dict.fromkeys(name for _, name in places)
    ]


def check_twins(splits: dict[str, Sequence[str]], contents: dict[str, str]) -> list[Finding]:
    """Objects of different splits with the same images under different names."""
    where = {name: split for split, names in splits.items() for name in names}
    first: dict[str, str] = {}
    findings = []
    for name, content in contents.items():
        other = first.setdefault(content, name) if content else name
        if other != name and where.get(name) != where.get(other):
            findings.append(Finding(name, "", None, f"has the same views as {other!r} of another split"))
    return findings
