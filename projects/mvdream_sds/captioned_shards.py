"""Captioned images in tar shards as WebDataset reads them, in any order.

Members of one sample stand together and share a key: `<key>.jpg` with `<key>.txt` or `<key>.json`. Where each lies is
listed once, which is what random access, and with it a resume at any step, needs.
"""

import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.config import whole
from core.data.dropping import allow_dropped
from core.errors import BadData
from core.files import IMAGE_SUFFIXES, atomic_file, list_inputs
from core.images import decode_image
from projects.mvdream_sds.captioned import CAPTION_KEYS, square_pixels

log = logging.getLogger(__name__)

INDEX_FILE = "captioned.index.npy"
ROW = np.dtype(
    [("shard", "<u4"), ("image_at", "<u8"), ("image_size", "<u4"), ("text_at", "<u8"), ("text_size", "<u4"),
     ("is_json", "?")]
)  # fmt: skip


class CaptionedShards:
    """Images of tar shards, read in any order by a list of their places, which is made once.

    Args:
        root: a folder of shards.
        image_size: as of `CaptionedFolder`.
        index: folder for the list; None: beside the shards. It is made again where shards have changed.
        max_lost: the fraction of shards that may be truncated, missing their end; what is whole of them is used.
    """

    def __init__(self, *, root: str, image_size: int, index: str | None = None, max_lost: float = 0.0) -> None:
        whole("image_size", image_size)
        self.shards = list_inputs(root, (".tar",), what="shard", fault=BadData)
        self.image_size = image_size
        self.rows = _rows(self.shards, Path(index or root), max_lost)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [3, H, W] in [-1, 1] and `caption`. BadImage or BadData for damaged members."""
        row = self.rows[index]
        shard = self.shards[int(row["shard"])]
        with shard.open("rb") as file:
            file.seek(int(row["image_at"]))
            image = file.read(int(row["image_size"]))
            file.seek(int(row["text_at"]))
            text = file.read(int(row["text_size"]))
        where = f"sample {index} of {shard}"
        caption = _caption_in_json(text, where) if row["is_json"] else text.decode("utf-8", "replace").strip()
        return {"pixels": square_pixels(decode_image(image, where), self.image_size), "caption": caption}


def _caption_in_json(content: bytes, where: str) -> str:
    try:
        entry = json.loads(content)
        return str(next(entry[key] for key in CAPTION_KEYS if key in entry))
    except (ValueError, TypeError, StopIteration) as error:
        raise BadData(f"{where}: its json holds none of {', '.join(CAPTION_KEYS)}") from error


def _rows(shards: list[Path], folder: Path, max_lost: float) -> np.ndarray:
    """The list of samples, read where it was made of these shards, else made and kept."""
    path = folder / INDEX_FILE
    stamps = {shard.name: [shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards}
    known = _known(path, stamps)
    rows, broken = known if known is not None else _listed(shards)
    for name, cause in broken.items():
        log.warning("shard %s: %s; what stands before is used", name, cause)
    first = next((f"{name}: {cause}" for name, cause in broken.items()), "")
    allow_dropped(len(broken), len(shards), first, max_lost, setting="max_lost")
    if known is not None:
        return rows
    if not len(rows):
        raise BadData(
            f"no images with captions in the shards of {folder}: wanted are <key>.jpg with <key>.txt or .json"
        )
    with atomic_file(path) as temporary:
        np.save(temporary, rows)
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"shards": stamps, "broken": broken}), encoding="utf-8")
    return rows


def _known(path: Path, stamps: dict[str, list[int]]) -> tuple[np.ndarray, dict[str, str]] | None:
    """What was listed of these very shards, and which of them are broken; None where there is no such list.

    Args:
        stamps: each shard's size and time of change: equally large ones may have been put in their place.
    """
    try:
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return (np.load(path, mmap_mode="r"), dict(note["broken"])) if note["shards"] == stamps else None
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return None  # it is not there, or damaged, and is made again


def _listed(shards: list[Path]) -> tuple[np.ndarray, dict[str, str]]:
    """All samples, and the shards that could not be read to their end, with the cause."""
    scanned = [_scan(number, shard) for number, shard in enumerate(shards)]
    broken = {shard.name: cause for shard, (_, cause) in zip(shards, scanned, strict=True) if cause is not None}
    return np.concatenate([samples for samples, _ in scanned]), broken


def _scan(number: int, shard: Path) -> tuple[np.ndarray, str | None]:
    """A shard's samples, and why it could not be read to its end, or None."""
    found: list[tuple] = []
    parts: dict[str, dict[str, tuple[int, int]]] = {}
    cause, end = None, shard.stat().st_size
    try:
        with tarfile.open(shard) as archive:
            for info in archive:
                folder, _, name = info.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if info.isfile() and info.offset_data + info.size <= end:
                    parts.setdefault(f"{folder}/{stem}", {})[f".{suffix.lower()}"] = (info.offset_data, info.size)
                elif info.isfile():
                    cause = "truncated"
            if end - archive.offset < tarfile.BLOCKSIZE:  # tarfile takes half a header for the end
                cause = "truncated"
    except (tarfile.TarError, EOFError, OSError) as error:
        cause = f"truncated or no tar ({error})"
    half = 0
    for members in parts.values():
        image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
        text = members.get(".txt") or members.get(".json")
        if image is not None and text is not None:
            found.append((number, *image, *text, ".txt" not in members))
        else:
            half += 1
    if half:
        log.warning("shard %s: %d of %d samples lack an image or a caption and are not used", shard, half, len(parts))
    return np.array(found, dtype=ROW), cause
