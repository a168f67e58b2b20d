"""Packing a data set: its objects cut into shards, these written by several processes, and the index of all.

<out>/000000.tar ...     shards; each split begins a new one
<out>/index.json         shards, splits, counts; with index.rows.npy and index.names.npy (core.data.table)
<out>/results.jsonl      one line per shard, and one per object that failed
"""

import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from core.batch import RESULTS, append_result
from core.data.table import write_table
from core.errors import BadData, BadOutput, BadRequest, UserError
from core.progress import console, progress_bar
from core.provenance import provenance
from data_tools.layouts import load
from data_tools.layouts._shared import Listing
from data_tools.pack.shard import Job, Shard, make_shard


def pack_all(cfg: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Pack the data set `cfg["root"]`; returns counts: objects, shards, skipped (shards that were there).

    Raises a UserError at the end if any object failed; the others are packed then, and the index is written.
    """
    root = Path(cfg["root"])
    if not root.is_dir():
        raise BadData(f"root={str(root)!r}: no such folder; of an archive, data_tools.import_official makes one")
    if out.resolve() == root.resolve():
        raise BadOutput(f"out={str(out)!r} is the data set itself; choose another out=")
    listed = load(cfg["layout"]).find(root)
    failed = [(name, reason) for name, reason in listed.faults]
    for name, reason in failed:
        _tell(out, name, reason)
    splits = split_up(listed)
    jobs = _jobs(cfg, root, splits, out)
    _remove_stale(out, len(jobs), cfg["overwrite"])
    shards: list[Shard] = []
    with _mapped(min(cfg["workers"] or os.cpu_count() or 1, len(jobs))) as run, progress_bar() as bar:
        for job, shard in zip(jobs, bar.track(run(make_shard, jobs), len(jobs), description="packing"), strict=True):
            shards.append(shard)
            for name, reason in shard.failed:
                _tell(out, name, reason)
            failed += shard.failed
            if not shard.entries:
                continue
            status = "skipped" if shard.skipped else "ok"
            record = {"input": job.tar.name, "status": status, "objects": len(shard.entries), "bytes": shard.size}
            append_result(out, record)
    objects = sum(len(shard.entries) for shard in shards)
    if not objects:
        raise BadData(f"no object of {str(root)!r} could be packed; the first: {failed[0][0]}: {failed[0][1]}")
    _write_index(cfg, out, jobs, shards, splits)
    if failed:
        total = len(listed.names) + len(listed.faults)
        raise UserError(
            f"{len(failed)} of {total} objects failed (listed in {out / RESULTS}) and are not packed; the first: "
            f"{failed[0][0]}: {failed[0][1]}"
        )
    return {
        "objects": objects,
        "shards": sum(bool(shard.entries) for shard in shards),
        "skipped": sum(shard.skipped for shard in shards),
    }


def split_up(listed: Listing) -> dict[str, list[str]]:
    """The objects' names by split, those of no split under ""; BadData where one is in two."""
    splits = {split: list(dict.fromkeys(names)) for split, names in listed.splits.items() if names}
    where: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if (other := where.setdefault(name, split)) != split:
                raise BadData(
                    f"{name} is in the splits {other} and {split}; data_tools.validate lists all such objects"
                )
    rest = [name for name in listed.names if name not in where]
    return splits | ({"": rest} if rest else {})


def _jobs(cfg: Mapping[str, Any], root: Path, splits: Mapping[str, Sequence[str]], out: Path) -> list[Job]:
    most = cfg["objects_per_shard"]
    chunks = [names[cut : cut + most] for names in splits.values() for cut in range(0, len(names), most)]
    return [
        Job(number, root, cfg["layout"], cfg["mask"], chunk, out, cfg["overwrite"])
        for number, chunk in enumerate(chunks)
    ]


def _write_index(
    cfg: Mapping[str, Any], out: Path, jobs: Sequence[Job], shards: Sequence[Shard], splits: Mapping[str, Sequence[str]]
) -> None:
    packed = iter(zip(jobs, shards, strict=True))
    ranges, first = {}, 0
    for split, names in splits.items():
        of_split = [next(packed)[1] for _ in range(-(-len(names) // cfg["objects_per_shard"]))]
        count = sum(len(shard.entries) for shard in of_split)
        ranges[split] = [first, count]
        first += count
    there = [(job.tar.name, shard) for job, shard in zip(jobs, shards, strict=True) if shard.entries]
    files = [
        {"file": name, "size": shard.size, "content": shard.content, "items": len(shard.entries)}
        for name, shard in there
    ]
    source = provenance(dict(cfg), seed=cfg["seed"])
    index = {"splits": {k: v for k, v in ranges.items() if k}, "shards": files, "provenance": source}
    entries = (entry._replace(shard=place) for place, (_, shard) in enumerate(there) for entry in shard.entries)
    write_table(out, entries, index)


def _remove_stale(out: Path, count: int, overwrite: bool) -> None:
    """Shards of an earlier, larger pack would be read by whoever takes `*.tar`."""
    stale = [
        path for path in sorted(out.glob("*.tar")) if re.fullmatch(r"\d{6}", path.stem) and int(path.stem) >= count
    ]
    if stale and not overwrite:
        raise BadRequest(f"{str(stale[0])!r} is of a larger pack; choose another out= or overwrite=true")
    for path in stale:
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)


def _tell(out: Path, name: str, reason: str) -> None:
    console.print(f"{name}: failed: {reason}", markup=False, highlight=False)
    append_result(out, {"input": name, "status": "failed", "kind": "BadData", "error": reason})


@contextmanager
def _mapped(workers: int) -> Iterator[Any]:
    """A `map` in order: on so many processes, or with one of them here."""
    if workers <= 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent
