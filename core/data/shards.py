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
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import spherical
from core.data.conventions import NUM_VIEWS
from core.data.dropping import allow_dropped
from core.data.table import ItemTable
from core.errors import BadConfig, BadData
from core.images import decode_image, training_image, training_pixels

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

    def usable(self, split: str | None, max_dropped: float) -> Sequence[int] | np.ndarray:
        """Numbers of a split's objects (None: of all), without those in what is missing of truncated shards.

        Each such shard is reported. Raises BadData when more than the fraction `max_dropped` would be left out.
        """
        numbers = self._of_split(split)
        index, rows = self.table.index, self.table.rows
        there = np.array([self._size(shard["file"]) for shard in index["shards"]], dtype=np.int64)
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
        allow_dropped(int((~whole).sum()), len(numbers), first, max_dropped)
        return np.flatnonzero(whole) + numbers.start

    def read(self, number: int) -> tuple[dict[str, Any], dict[str, bytes]]:
        """An object's note and its images' files by member; BadData where the shard is damaged."""
        entry = self.table[number]
        path = self.root / self.table.index["shards"][entry.shard]["file"]
        with path.open("rb") as file:
            file.seek(entry.offset)
            content = file.read(entry.size)
        if not entry.is_of(content):
            raise BadData(f"{entry.name} in {str(path)!r} is damaged (another checksum); copy or pack it again")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            files = {info.name.partition(".")[2]: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
        return json.loads(files.pop(NOTE)), files

    def _of_split(self, split: str | None) -> range:
        splits = self.table.index["splits"]
        if split is not None and split not in splits:
            known = ", ".join(splits) or "no splits: give split=null"
            raise BadData(f"the pack {str(self.root)!r} has no split {split!r}; it has {known}")
        first, count = (0, len(self.table)) if split is None else splits[split]
        return range(first, first + count)

    def _size(self, file: str) -> int:
        try:
            return (self.root / file).stat().st_size
        except OSError:
            return 0


class PackedViews:
    """SyncDreamer's training items from a pack of objects with 16 `target` and 16 `input` views.

    Equal to what `ToyboxViews` and `OfficialViews` make of the same objects unpacked: the start s is drawn uniformly,
    the targets are the views s, s + 1, ... (mod 16), the input is the input view s with its own elevation.
    """

    def __init__(
        self, *, root: str, split: str | None = "train", image_size: int | None = None, max_dropped: float = 0.0
    ) -> None:
        """
        Args:
            root: a folder made by data_tools.pack.
            split: which of its splits; None: all objects.
            image_size: side to which images are resized; None: as they are.
            max_dropped: the fraction of objects that may be missing with truncated shards; BadData when more are.
        """
        if image_size is not None and image_size < 1:
            raise BadConfig(f"image_size={image_size}: expected at least 1")
        self.pack, self.image_size = Pack(root), image_size
        self.numbers = self.pack.usable(split, max_dropped)
        if len(self.numbers):
            self._parts(self.pack.read(int(self.numbers[0]))[0])  # a pack of other things is refused at once

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`target_pixels` [16, 3, H, W] and `input_pixels` [3, H, W] in [-1, 1], `input_elevation` [1] in radians,
        `start` (the view that the targets begin with), `caption` ("" where there is none) and `uid`."""
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        order = [(start + view) % NUM_VIEWS for view in range(NUM_VIEWS)]
        note, files = self.pack.read(int(self.numbers[index]))
        target, given = self._parts(note)
        centers = torch.tensor([frame["transform_matrix"] for frame in given["transforms"]["frames"]])[:, :3, 3]
        return {
            "target_pixels": torch.stack([self._pixels(files, note, target["first"] + view) for view in order]),
            "input_pixels": self._pixels(files, note, given["first"] + start),
            "input_elevation": spherical(centers)[1][start : start + 1],
            "start": start,
            "caption": note["caption"] or "",
            "uid": PurePosixPath(note["name"]).name,
        }

    def _parts(self, note: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The target and the input part; BadData where an object has others."""
        parts = note["parts"]
        views = {part: len(content["transforms"]["frames"]) for part, content in parts.items()}
        if views != {"target": NUM_VIEWS, "input": NUM_VIEWS}:
            found = ", ".join(f"{part or 'views'} with {count}" for part, count in views.items())
            raise BadData(
                f"{note['name']} in {str(self.pack.root)!r} has {found}; wanted are target and input with 16 views"
            )
        return parts["target"], parts["input"]

    def _pixels(self, files: Mapping[str, bytes], note: Mapping[str, Any], view: int) -> Float[Tensor, "3 h w"]:
        rgba = decode_image(files[member(view)], f"{note['name']}, {member(view)}")
        return training_image(rgba) * 2 - 1 if self.image_size is None else training_pixels(rgba, self.image_size)
