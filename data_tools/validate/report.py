"""Validating a data set: all its objects, on several processes, as a report.

validation.json:
    root, layout                     what was validated
    objects, num_good                counts
    names_sha256                     of the objects' names (core.data.dropping), by which training knows the list
    stamps                           {name: [files, bytes, newest change]} of up to 1000 objects in their folders, or
                                     of the shards with broken objects: by it training knows an old report
    pack_sha256, pack_objects        of a pack: hash of its index, and how many of its objects were looked at
    broken                           {name: [reasons]}, in the data set's order
    findings                         [{object, part, view, reason}]: the same, apart
    provenance
"""

import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.data.names import names_hash
from core.data.reports import REPORT
from core.errors import BadData, BadOutput
from core.files import atomic_file
from core.progress import progress_bar
from core.provenance import provenance
from data_tools.layouts import load
from data_tools.layouts._archives import unpacked
from data_tools.validate.checks import Finding, check_splits, check_twins
from data_tools.validate.packed import is_packed
from data_tools.validate.sources import Source, folders, packed

CHUNK = 16  # objects handed to a process at once
SHOWN = 50  # rows of the table


def validate(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The report on the data set in `cfg["root"]`, a folder or an archive; BadData where it is none."""
    with unpacked(Path(cfg["root"]), Path(cfg["out"]), load(cfg["layout"]).find) as root:
        return _validate(cfg, packed(cfg, root) if is_packed(root) else folders(cfg, root))


def _validate(cfg: Mapping[str, Any], source: Source) -> dict[str, Any]:
    listed = source.listed
    findings = [Finding(name, "", None, reason) for name, reason in listed.faults]
    contents: dict[str, str] = {}
    workers = min(cfg["workers"] or os.cpu_count() or 1, -(-len(source.items) // CHUNK))
    with _mapped(workers) as run, progress_bar() as bar:
        work = run(source.check, [item for item, _ in source.items])
        results = bar.track(work, total=len(source.items), description="validating")
        for (_, name), (found, content) in zip(source.items, results, strict=True):
            findings += found
            contents[name] = content
    splits = dict(listed.splits)
    if len(splits) > 1:
        findings += check_splits(splits) + check_twins(splits, contents)
    broken: dict[str, list[str]] = {}
    for finding in findings:
        broken.setdefault(finding.object, []).append(_in_words(finding))
    return {
        "root": cfg["root"],
        "layout": source.layout,
        "objects": len(listed.names),
        "num_good": sum(name not in broken for name in listed.names),
        "names_sha256": names_hash(listed.names),
        **source.facts(broken),
        "broken": broken,
        "findings": [finding._asdict() for finding in findings],
        "provenance": provenance(dict(cfg), seed=cfg["seed"]),
    }


@contextmanager
def _mapped(workers: int) -> Iterator[Any]:
    """A `map` in order: on so many processes, or with one of them here."""
    if workers <= 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        yield partial(pool.map, chunksize=CHUNK)
    except BrokenProcessPool as error:
        raise BadData("a process was ended from outside (out of memory?); set workers lower") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent


def _in_words(finding: Finding) -> str:
    place = [finding.part] if finding.part else []
    place += [f"view {finding.view}"] if finding.view is not None else []
    return f"{', '.join(place)}: {finding.reason}" if place else finding.reason


def write_beside(report: Mapping[str, Any]) -> str | None:
    """The report in the data folder itself, where training looks for it; a line where it cannot be written.

    Of archives, and of layouts that no training reads, nothing is written.
    """
    if "stamps" not in report:
        return None
    try:
        path = write_report(Path(report["root"]), report)
    except BadOutput as error:
        return f"{error}; training takes the report by data.report="
    return f"training finds the report in {str(path)!r}"


def write_report(out: Path, report: Mapping[str, Any]) -> Path:
    """validation.json, whole or not at all."""
    path = out / REPORT
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def table(report: Mapping[str, Any]) -> str:
    """The findings in columns, and a line that sums up."""
    rows = [
        (_shown(each["object"]), each["part"], "" if each["view"] is None else str(each["view"]), each["reason"])
        for each in report["findings"]
    ]
    lines = list(_columns([("object", "part", "view", "reason"), *rows[:SHOWN]])) if rows else []
    if len(rows) > SHOWN:
        lines.append(f"... and {len(rows) - SHOWN} more")
    lines.append(f"{report['root']}: {report['objects']} objects, {report['num_good']} good")
    return "\n".join(lines)


def _shown(name: str) -> str:
    """A name as it stands, or in quotes and escaped where it would break the table."""
    return name if name.isprintable() and name == name.strip() and name else repr(name)


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Left-aligned columns; one that is empty throughout is left out."""
    kept = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in kept[:-1]]
    for row in zip(*kept, strict=True):
        yield "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)] + [row[-1]])


def raise_if_broken(report: Mapping[str, Any], path: Path) -> None:
    """BadData that counts, so that the program ends with exit code 2."""
    if report["broken"]:
        broken = report["objects"] - report["num_good"]
        more = len(report["broken"]) - broken  # of names that are none, and of shards
        beside = f" and {more} faults beside them" if more else ""
        bad = f"{broken} broken objects{beside}, {report['num_good']} of {report['objects']} good"
        raise BadData(f"{bad}; all reasons are in {str(path)!r}")
