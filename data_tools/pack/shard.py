"""One shard: some objects as a tar, and the list of what it holds.

    000000.tar       the objects, in the form that core.data.shards reads
    000000.json      its objects' places, what failed, and a signature of what it was made from

The tar is a function of the objects' files alone: no times, no owners. PNG files go in byte for byte.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from core.data.shards import NOTE, key_of, member
from core.data.table import INDEX, Entry
from core.errors import BadData, BadRequest, UserError
from core.files import atomic_file
from core.images import encode_png
from core.views import ViewSet
from data_tools.layouts import load
from data_tools.layouts._shared import Sheet, judge

VERSION = 2  # of what decides a shard beside the settings and the files; raise it with any change to that
END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Job:
    """What one shard is to hold, and from where."""

    number: int
    root: Path
    layout: str
    mask: str | None
    names: Sequence[str]
    out: Path
    overwrite: bool

    @property
    def tar(self) -> Path:
        """The shard's file."""
        return self.out / f"{self.number:06d}.tar"

    @property
    def part(self) -> Path:
        """The list of what it holds."""
        return self.tar.with_suffix(".json")


@dataclass(frozen=True)
class Shard:
    """A shard that is there."""

    size: int
    entries: list[Entry]
    failed: list[tuple[str, str]]
    skipped: bool

    @property
    def content(self) -> int:
        """Bytes up to the end of the last object."""
        return max((entry.offset + entry.size for entry in self.entries), default=0)


def make_shard(job: Job) -> Shard:
    """Write a shard, unless the very same is there; objects that fail are left out of it and listed.

    Nothing is written where every object fails. Raises BadRequest where another shard is in the way.
    """
    signature = _signature(job)
    there = _there(job)
    same = there is not None and there["signature"] == signature
    if there and same and not there["failed"] and not job.overwrite and _size(job.tar) == there["size"]:
        return Shard(there["size"], [Entry(*row) for row in there["entries"]], [], skipped=True)
    if job.tar.exists() and not (job.overwrite or same or (there and there["failed"])):
        raise BadRequest(
            f"{str(job.tar)!r} holds other objects, or was made with other settings; choose another out= or "
            "overwrite=true"
        )
    # First: an index, or a list, that is older or newer than its shard must not meet it.
    for outdated in (job.out / INDEX, job.tar, job.part):
        outdated.unlink(missing_ok=True)
    failed: list[tuple[str, str]] = []
    packed = _packed(job, failed)
    first = next(packed, None)  # no file is opened for a shard without objects
    if first is None:
        return Shard(0, [], failed, skipped=False)
    entries: list[Entry] = []
    with atomic_file(job.tar) as temporary:
        with temporary.open("wb") as file:
            for name, content in chain([first], packed):
                entries.append(Entry(_final(job, name), job.number, file.tell(), len(content), zlib.crc32(content)))
                file.write(content)
            file.write(END)
            size = file.tell()
        listed = {"signature": signature, "size": size, "entries": entries, "failed": failed}
        with atomic_file(job.part) as temporary_part:
            temporary_part.write_text(json.dumps(listed, ensure_ascii=False) + "\n", encoding="utf-8")
    return Shard(size, entries, failed, skipped=False)


def _packed(job: Job, failed: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each object; of those that fail, the name and the reason go to `failed`."""
    for name in job.names:
        try:
            yield name, pack_object(job.root, job.layout, name, job.mask)
        except UserError as error:
            failed.append((name, str(error)))


def pack_object(root: Path, layout: str, name: str, mask: str | None) -> bytes:
    """An object's members as they stand in a tar; BadData with the first of its faults."""
    title = root.resolve().name if name == "." else name
    members, parts = [], {}
    for part, sheet in load(layout).read(root, name).items():
        views, faults = judge(sheet, mask)
        if views is None or faults:
            more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
            raise BadData(f"{part}: {faults[0]}{more}" if part else f"{faults[0]}{more}")
        files = [_image(sheet, views, view, mask) for view in range(len(views))]
        parts[part] = {"first": len(members), "transforms": _placed(sheet.transforms, len(members))}
        members += files
    captions = (each["transforms"].get("caption") for each in parts.values())
    note = {"name": title, "caption": next(filter(None, captions), None), "parts": parts}
    key, text = key_of(title), json.dumps(note, ensure_ascii=False)
    return b"".join(
        _as_member(f"{key}.{ending}", content)
        for ending, content in [(NOTE, text.encode()), *((member(view), file) for view, file in enumerate(members))]
    )


def _final(job: Job, name: str) -> str:
    return job.root.resolve().name if name == "." else name


def _image(sheet: Sheet, views: ViewSet, view: int, mask: str | None) -> bytes:
    path = _path(sheet, view)
    return path.read_bytes() if mask is None and path.suffix.lower() == ".png" else encode_png(views.images[view])


def _path(sheet: Sheet, view: int) -> Path:
    path = sheet.folder / str(sheet.transforms["frames"][view]["file_path"])
    return path if path.suffix else path.with_suffix(".png")  # as core.views reads it


def _placed(transforms: Mapping[str, Any], first: int) -> dict[str, Any]:
    """The same with the members as the images' names."""
    frames = [{**frame, "file_path": member(first + view)} for view, frame in enumerate(transforms["frames"])]
    return {**transforms, "frames": frames}


def _as_member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def _there(job: Job) -> dict[str, Any] | None:
    """The list of the shard that was made here; None where there is none."""
    try:
        listed = json.loads(job.part.read_text(encoding="utf-8"))
        return listed if {"signature", "size", "entries", "failed"} <= listed.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _signature(job: Job) -> str:
    """Of the settings and of the files that a shard is made from, these by size and time of their last change."""
    digest = hashlib.sha256(json.dumps([VERSION, job.layout, job.mask]).encode())
    for name in job.names:
        try:
            sheets = load(job.layout).read(job.root, name)
        except UserError as error:
            sheets, told = {}, str(error)
        else:
            told = ""
        digest.update(json.dumps([name, told]).encode())
        for part, sheet in sheets.items():
            stamps = [_stamp(sheet, view) for view in range(len(sheet.transforms.get("frames") or ()))]
            digest.update(json.dumps([part, sheet.transforms, stamps], default=str).encode())
    return digest.hexdigest()


def _stamp(sheet: Sheet, view: int) -> list[int] | None:
    try:
        found = _path(sheet, view).stat()
    except (OSError, KeyError, TypeError, ValueError):  # core.views says what is wrong with it
        return None
    return [found.st_size, found.st_mtime_ns]
