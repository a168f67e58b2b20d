"""View sets in WebDataset shards, read one by one in any order.

A shard is a tar; an object in it is a run of members `<key>.json, <key>.view00.png, <key>.view01.png, ...`, so that
WebDataset reads it as one sample. The json holds each part's `transforms.json` and the number of its first view. The
index beside the shards (`core.data.table`) says where each object begins, which is what random access, and with it a
resume at any step, needs: an object is one contiguous read.
"""

import io
import json
import logging
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data.dropping import allow_dropped
from core.data.reports import AGAIN, file_stamp, read_report, refuse_stale
from core.data.table import Entry, ItemTable
from core.errors import BadData

NOTE = "json"

log = logging.getLogger(__name__)


def member(view: int) -> str:
    """A view's name, after the object's key and a dot."""
    return f"view{view:02d}.png"


def key_of(name: str) -> str:
    """An object's key: WebDataset ends a key at the first dot, so that names keep theirs as %2E."""
    return name.replace("%", "%25").replace(".", "%2E")


class Pack:
    """Shards and their index."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.table = ItemTable(root)

    def whole(self, split: str | None, max_lost: float) -> Sequence[int] | np.ndarray:
        """Numbers of a split's objects (None: of all), without those in what is missing of truncated shards.

        Each such shard is reported. Raises BadData when more than the fraction `max_lost` would be left out.
        """
        numbers = self.of_split(split)
        index, rows = self.table.index, self.table.rows
        there = np.array([self.size_there(shard["file"]) for shard in index["shards"]], dtype=np.int64)
        short = [i for i, shard in enumerate(index["shards"]) if there[i] < shard["content"]]
        if not short:
            return numbers
        part = rows[numbers.start : numbers.stop]
        whole = part["offset"] + part["size"] <= there.astype(np.uint64)[part["shard"]]
        lost = {i: int((~whole & (part["shard"] == i)).sum()) for i in short}
        lost = {i: count for i, count in lost.items() if count}  # the others are of other splits
        for i, count in lost.items():
            shard = index["shards"][i]
            state = f"truncated ({there[i]:,} of {shard['size']:,} bytes)" if there[i] else "missing or empty"
            log.warning(
                f"shard {shard['file']} is {state}: {count} of {shard['items']} objects are lost; copy it again"
            )
        first = f"shard {index['shards'][min(lost)]['file']} is not whole" if lost else ""
        allow_dropped(int((~whole).sum()), len(numbers), first, max_lost, setting="max_lost")
        return np.flatnonzero(whole) + numbers.start

    def reported(self, report: str | None) -> dict[int, str] | None:
        """Numbers of the objects that a validation report calls broken, and why; None without a report.

        Raises BadData for a report about another pack, or about this one as it was before it was packed again.
        """
        found = read_report(report, self.root)
        if found is None:
            return None
        path, content = found
        if content.get("pack_sha256") != self.table.fingerprint():
            raise BadData(f"the report {str(path)!r} is about another pack, or an earlier state of this one; {AGAIN}")
        if content.get("pack_objects") != len(self.table):
            raise BadData(f"the report {str(path)!r} is about some objects of the pack only; {AGAIN}")
        refuse_stale(path, content["stamps"], lambda file: file_stamp(self.root / file))
        log.info("what is broken in the data is taken from %s", path)
        reasons = content["reasons"]
        if not reasons:
            return {}
        names = ((number, self.table[number].name) for number in range(len(self.table)))
        return {number: f"{name}: {reasons[name]}" for number, name in names if name in reasons}

    def read(self, number: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        """An object's note and its images' files by member; BadData where the shard is damaged."""
        entry = self.table[number]
        path = self.root / self.table.index["shards"][entry.shard]["file"]
        content = self.bytes_of(entry)
        if not entry.is_of(content):
            raise BadData(f"{entry.name} in {str(path)!r} is damaged (another checksum); copy or pack it again")
        try:
            return parse_object(content)
        except BadData as error:
            raise BadData(f"{entry.name} in {str(path)!r} {error}; pack it again") from error

    def bytes_of(self, entry: Entry) -> bytes:
        """What stands at an object's place; BadData where its shard cannot be read."""
        path = self.root / self.table.index["shards"][entry.shard]["file"]
        try:
            with path.open("rb") as file:
                file.seek(entry.offset)
                return file.read(entry.size)
        except OSError as error:
            raise BadData(f"cannot read {str(path)!r}: {error.strerror or error}; copy it again") from error

    def of_split(self, split: str | None) -> range:
        splits = self.table.index["splits"]
        if split is not None and split not in splits:
            known = ", ".join(splits) or "no splits: give split=null"
            raise BadData(f"the pack {str(self.root)!r} has no split {split!r}; it has {known}")
        first, count = (0, len(self.table)) if split is None else splits[split]
        return range(first, first + count)

    def size_there(self, file: str) -> int:
        """Bytes that are there of a shard; 0 where there is none."""
        try:
            return (self.root / file).stat().st_size
        except OSError:
            return 0


def parse_object(content: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """An object's note and its images' files by member; BadData for bytes that are no such object."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {info.name.partition(".")[2]: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError, ValueError, AttributeError) as error:
        raise BadData(f"holds members that cannot be read ({type(error).__name__}: {error})") from error
    try:
        note = json.loads(files.pop(NOTE))
        parts = note["parts"].values()
        placed = all(isinstance(part["transforms"], dict) and isinstance(part["first"], int) for part in parts)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BadData(f"holds no {NOTE} of its parts ({type(error).__name__}: {error})") from error
    if not (parts and placed and isinstance(note.get("name"), str)):
        raise BadData(f"holds a {NOTE} without a name or parts")
    return note, files
