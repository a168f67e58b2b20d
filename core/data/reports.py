"""Validation reports as training takes them: where one lies, whether it is about this data, and whether it still holds.

A report is what `data_tools.validate` writes (`validation.json`). It remembers of up to `LOOKED_AT` objects how many
files they had, how many bytes, and when the newest was changed: training compares that before it believes the report,
at the cost of listing those objects' folders.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.data.names import names_hash
from core.errors import BadData

log = logging.getLogger(__name__)

REPORT = "validation.json"
AUTO = "auto"
LOOKED_AT = 1000  # objects that training looks at before it starts; of more, so many evenly spread ones
AGAIN = "run data_tools.validate again, or train without it (data.report=null)"


def spread(count: int, most: int = LOOKED_AT) -> list[int]:
    """Indices of all of `count` objects, or of `most` evenly spread ones."""
    return list(range(count)) if count <= most else [index * count // most for index in range(most)]


def stamp(folders: Iterable[Path]) -> list[int]:
    """Number of files directly in these folders, their bytes together, and the newest time of change in nanoseconds."""
    found: list[os.stat_result] = []
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:  # a missing folder holds no files
            found += [entry.stat() for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    return _summed(found)


def file_stamp(file: Path) -> list[int]:
    """The same of one file."""
    return _summed([file.stat()] if file.is_file() else [])


def _summed(found: Sequence[os.stat_result]) -> list[int]:
    return [len(found), sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)]


def read_report(report: str | None, root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The report that a setting names and its path: null: none; auto: the data folder's, if there is one; or a path.

    Raises BadData for what is no report.
    """
    path = root / REPORT if report == AUTO else Path(report) if report is not None else None
    if path is None or (report == AUTO and not path.is_file()):
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        content["reasons"] = {name: str(reasons[0]) for name, reasons in content["broken"].items()}
        stamps = content.get("stamps", {}).items()
        content["stamps"] = {name: [int(number) for number in (*was, 0, 0, 0)[:3]] for name, was in stamps}
        content |= {"names_sha256": str(content["names_sha256"]), "objects": int(content["objects"])}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadData(f"no validation report in {str(path)!r} ({error}); make one with data_tools.validate") from error
    return path, content


def broken_in_report(
    report: str | None, root: Path, names: Sequence[str], folders_of: Callable[[str], Iterable[Path]]
) -> dict[str, str] | None:
    """The broken objects of the report that a setting names, and the first reason of each; None where there is none.

    Args:
        report: as of `read_report`.
        names: the objects that training reads.
        folders_of: where an object's files lie.

    A report found by itself (auto) that is about another list is named in the log, and not used. Raises BadData for one
    that was asked for and is about another list, and for any that is older than the data.
    """
    found = read_report(report, root)
    if found is None:
        return None
    path, content = found
    if content["names_sha256"] != names_hash(names):
        about = f"the report {str(path)!r} is about another list of objects"
        if report != AUTO:
            raise BadData(f"{about}; {AGAIN}")
        log.warning("%s and is not used; data_tools.validate uids=... makes one about these", about)
        return None
    refuse_stale(path, content["stamps"], lambda name: stamp(folders_of(name)))
    log.info("what is broken in the data is taken from %s", path)
    return content["reasons"]


def refuse_stale(path: Path, stamps: Mapping[str, Sequence[int]], stamp_of: Callable[[str], Sequence[int]]) -> None:
    """BadData where things have other files than when they were validated; a warning where only times differ.

    Args:
        path: the report's.
        stamps: by name, as the report remembers them.
        stamp_of: what `stamp` says now.
    """
    newer = 0
    for name, was in stamps.items():
        now = stamp_of(name)
        if list(now[:2]) != list(was[:2]):
            raise BadData(
                f"the report {str(path)!r} is out of date: {name} has {now[0]} files of {now[1]:,} bytes, and had "
                f"{was[0]} of {was[1]:,}; {AGAIN}"
            )
        newer += now[2] > was[2]
    if newer:
        log.warning(
            "%s is used, but %d of the %d objects or shards that it remembers have newer files of the same sizes: were "
            "they copied, or edited? data_tools.validate makes it new",
            path,
            newer,
            len(stamps),
        )
