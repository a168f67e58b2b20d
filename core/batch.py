"""Work on many inputs: go on past a bad one, and list it.

Each item's record is one line of `results.jsonl` in the output folder, appended as soon as the item is finished.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from core.errors import BadOutput, BadRequest, UserError

Record = dict[str, Any]
RESULTS = "results.jsonl"


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


def files_of(record: Record) -> list[str]:
    """The files that a record lists."""
    return list(record["files"])


def finished(
    folder: Path, key: str, *, mark: str, parts: Callable[[Record], Iterable[str]] = files_of
) -> Record | None:
    """The record of a folder that was made whole under this key, or None where nothing is.

    Args:
        mark: the file with the record, a JSON object whose "key" is a digest of all that decides the result.
        parts: of a record, the files that must be there too.

    BadRequest where something else is: of other inputs, settings or weights, or not made here.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    record = _read_record(folder, mark, parts)
    if record is None or record["key"] != key:
        what = "results of another input, other settings or weights" if record else "other things than whole results"
        raise BadRequest(f"{str(folder)!r} holds {what}; choose another out= or set overwrite=true")
    return record


def _read_record(folder: Path, mark: str, parts: Callable[[Record], Iterable[str]]) -> Record | None:
    try:
        record = json.loads((folder / mark).read_text(encoding="utf-8"))
        whole = "key" in record and all((folder / name).is_file() for name in parts(record))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return record if whole else None


def run_batch(
    items: Sequence[Any],
    work: Callable[[Any], Record],
    *,
    out: Path,
    name: Callable[[Any], str] = str,
    report: Callable[[str], None] = print,
) -> list[Record]:
    """Do `work` on every item; returns the records of all items, and adds each to `results.jsonl`.

    What is done already is for `work` to know, by what it finds in the item's own folder: a record here can be missing
    (a program killed in between), and it names an input whose content may have changed.

    Raises a UserError at the end if any item failed (all others are done then); a BadOutput stops at once.
    """
    records: list[Record] = []
    errors: list[UserError] = []
    for number, item in enumerate(items, start=1):
        label = name(item)
        started = time.perf_counter()
        record: Record = {"input": label}
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
