"""Work on many inputs: go on past a bad one, list it, skip what is done.

Each item's record is one line of `results.jsonl` in the output folder, appended as soon as the item is finished.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.errors import BadOutput, UserError

Record = dict[str, Any]
RESULTS = "results.jsonl"


def read_results(out: Path) -> list[Record]:
    """Records written so far; a line that a crash cut short is left out."""
    path = out / RESULTS
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a crash cut it short; its item counts as not done
    return records


def append_result(out: Path, record: Record) -> None:
    """Add one line, flushed to the disk; a cut last line is ended first."""
    path = out / RESULTS
    try:
        out.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadOutput(f"cannot write {path} ({error.strerror}); free space or choose another out=") from error


def run_batch(
    items: Sequence[Any],
    work: Callable[[Any], Record],
    *,
    out: Path,
    settings: str | None,
    overwrite: bool = False,
    name: Callable[[Any], str] = str,
    report: Callable[[str], None] = print,
) -> list[Record]:
    """Do `work` on every item that is not done yet; returns the records of all items of this call.

    Args:
        settings: a hash of all that shapes a result. Items done under the same settings are skipped; results of other
            settings in the same folder are refused, never mixed. None where `work` itself knows what is done.
        overwrite: do everything again; the newest record of an item counts.

    Raises a UserError at the end if any item failed (all others are done then); a BadOutput stops at once.
    """
    done = {} if settings is None or overwrite else _done(out, settings)
    records: list[Record] = []
    errors: list[UserError] = []
    for number, item in enumerate(items, start=1):
        label = name(item)
        if label in done:
            report(f"[{number}/{len(items)}] {label}: done before, skipped")
            records.append(done[label])
            continue
        started = time.perf_counter()
        record: Record = {"input": label, "settings": settings}
        try:
            record |= {"status": "ok", **work(item)}
        except BadOutput:
            raise
        except UserError as error:
            errors.append(error)
            record |= {"status": "failed", "kind": type(error).__name__, "error": str(error)}
            if len(items) > 1:
                report(f"[{number}/{len(items)}] {label}: failed: {error}")
        record["seconds"] = round(time.perf_counter() - started, 3)
        append_result(out, record)
        records.append(record)
    if errors and len(items) == 1:
        raise errors[0]
    if errors:
        raise UserError(
            f"{len(errors)} of {len(items)} inputs failed (listed in {out / RESULTS}); the first: {errors[0]}"
        )
    return records


def _done(out: Path, settings: str) -> dict[str, Record]:
    finished = {record["input"]: record for record in read_results(out) if record.get("status") == "ok"}
    if any(record.get("settings") != settings for record in finished.values()):
        raise BadOutput(f"{out} holds results of other settings; choose another out= or set overwrite=true")
    return finished
