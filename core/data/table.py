"""Where each of a million items lies, in two memory-mapped arrays.

    index.rows.npy       one fixed-size row per item: its shard, its place there, a checksum, its name's place
    index.names.npy      all names as UTF-8, one after another

No Python object stands for an item that is not being read: a list of a million paths would take hundreds of megabytes,
and again in every worker, because counting references writes to each of them.
"""

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.errors import BadData
from core.files import atomic_file

ROWS, NAMES, INDEX = "index.rows.npy", "index.names.npy", "index.json"
VERSION = 1
ROW = np.dtype(
    [("shard", "<u4"), ("size", "<u4"), ("offset", "<u8"), ("crc", "<u4"), ("name_size", "<u4"), ("name_at", "<u8")]
)


class Entry(NamedTuple):
    """One item: bytes `offset` to `offset + size` of a shard, and their crc32."""

    name: str
    shard: int
    offset: int
    size: int
    crc: int

    def is_of(self, content: bytes) -> bool:
        """Whether these are its bytes."""
        return len(content) == self.size and zlib.crc32(content) == self.crc


class ItemTable:
    """The items of a pack, by number; opened anew wherever it is sent."""

    def __init__(self, folder: str | Path) -> None:
        """Raises BadData where the arrays are missing, broken, or not those that the index is about."""
        self.folder = Path(folder)
        self.index = _read_index(self.folder)
        try:
            self.rows = np.load(self.folder / ROWS, mmap_mode="r")
            self.names = np.load(self.folder / NAMES, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise BadData(f"the index of {str(folder)!r} is unreadable ({error}); run data_tools.pack again") from error
        if self.rows.dtype != ROW or len(self.rows) != self.index["items"] or self.names.dtype != np.uint8:
            raise BadData(f"the index of {str(folder)!r} is incomplete; run data_tools.pack again")

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        """sha256 of the list: of every object's name, place, size and checksum."""
        digest = hashlib.sha256(json.dumps([self.index.get("splits"), self.index.get("shards")]).encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        digest.update(np.ascontiguousarray(self.names).data)
        return digest.hexdigest()

    def __getitem__(self, number: int) -> Entry:
        shard, size, offset, crc, name_size, name_at = self.rows[number].item()
        return Entry(bytes(self.names[name_at : name_at + name_size]).decode(), shard, offset, size, crc)

    def __reduce__(self) -> tuple[type["ItemTable"], tuple[Path]]:
        return ItemTable, (self.folder,)  # not the arrays' content, which pickling a memory map would copy


def write_table(folder: Path, entries: Iterable[Entry], index: dict[str, Any]) -> None:
    """Write the arrays, and last of all the index that makes them valid.

    Args:
        index: what `index.json` says beside the number of items.
    """
    rows, names = [], bytearray()
    for entry in entries:
        name = entry.name.encode()
        rows.append((entry.shard, entry.size, entry.offset, entry.crc, len(name), len(names)))
        names += name
    (folder / INDEX).unlink(missing_ok=True)
    save_arrays(folder, np.array(rows, dtype=ROW), np.frombuffer(bytes(names), dtype=np.uint8))
    with atomic_file(folder / INDEX) as temporary:
        text = json.dumps({"version": VERSION, "items": len(rows), **index}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def save_arrays(folder: Path, rows: np.ndarray, names: np.ndarray) -> None:
    """The two arrays, each whole or not at all."""
    for file, array in ((ROWS, rows), (NAMES, names)):
        with atomic_file(folder / file) as temporary:
            np.save(temporary, array)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        known = index["version"] == VERSION and isinstance(index["items"], int)
    except FileNotFoundError as error:
        raise BadData(f"no pack in {str(folder)!r} (no {INDEX}); make it with data_tools.pack out={folder}") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadData(f"{str(path)!r} is unreadable ({error}); run data_tools.pack again") from error
    if not known:
        raise BadData(f"{str(path)!r} is of version {index['version']}, not {VERSION}; run data_tools.pack again")
    return index
