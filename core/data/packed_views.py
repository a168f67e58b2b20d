"""SyncDreamer's training items from shards."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import spherical
from core.data.conventions import NUM_VIEWS
from core.data.dropping import allow_dropped
from core.data.judging import judge_packed
from core.data.reports import AUTO, spread
from core.data.shards import Pack, member
from core.errors import BadConfig, BadData
from core.images import decode_image, training_image, training_pixels

LOOKED_AT = 64  # objects that are read before training where there is no report

log = logging.getLogger(__name__)


class PackedViews:
    """SyncDreamer's training items from a pack of objects with 16 `target` and 16 `input` views.

    Equal to what `ToyboxViews` and `OfficialViews` make of the same objects unpacked: the start s is drawn uniformly,
    the targets are the views s, s + 1, ... (mod 16), the input is the input view s with its own elevation.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str | None = "train",
        image_size: int | None = None,
        report: str | None = AUTO,
        max_lost: float = 0.0,
        max_dropped: float = 0.0,
    ) -> None:
        """
        Args:
            root: a folder made by data_tools.pack.
            split: which of its splits; None: all objects.
            image_size: side to which images are resized; None: as they are.
            report: what data_tools.validate found: a path; auto: validation.json in `root`, if it is there; None: none.
                Without one, up to `LOOKED_AT` evenly spread objects are judged before training.
            max_lost: the fraction of objects that may be missing with truncated shards; BadData when more are.
            max_dropped: the fraction of the others that may be left out as broken; BadData when more are.
        """
        if image_size is not None and image_size < 1:
            raise BadConfig(f"image_size={image_size}: expected at least 1")
        self.pack, self.image_size = Pack(root), image_size
        numbers = self.pack.whole(split, max_lost)
        broken = self.pack.reported(report)
        if broken is None:
            broken = self._look(numbers)
        lost = np.intersect1d(list(broken), numbers).tolist() if broken else []
        allow_dropped(len(lost), len(numbers), broken[lost[0]] if lost else "", max_dropped)
        self.numbers = np.setdiff1d(numbers, lost) if lost else numbers
        if len(self.numbers):
            self._parts(*self.pack.read(int(self.numbers[0])))  # a pack of other things is refused at once

    def _look(self, numbers: Sequence[int] | np.ndarray) -> dict[int, str]:
        """What is broken of up to `LOOKED_AT` objects, and why: judged as data_tools.validate does, images and all."""
        looked_at = [int(numbers[index]) for index in spread(len(numbers), LOOKED_AT)]
        log.info(
            "no validation report: %d of %d objects are looked at; data_tools.validate finds all",
            len(looked_at),
            len(numbers),
        )
        broken = {}
        for number in looked_at:
            try:
                note, files = self.pack.read(number)
                self._parts(note, files)
                self._elevations(note)
            except BadData as error:
                broken[number] = str(error)
                continue
            if faults := judge_packed(note, files):
                more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
                broken[number] = f"{note['name']} in {str(self.pack.root)!r}: {faults[0]}{more}"
        if broken and len(broken) == len(looked_at):  # of another kind than training wants: nothing to repair
            raise BadData(broken[looked_at[0]])
        return broken

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`target_pixels` [16, 3, H, W] and `input_pixels` [3, H, W] in [-1, 1], `input_elevation` [1] in radians,
        `start` (the view that the targets begin with), `caption` ("" where there is none) and `uid`."""
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        order = [(start + view) % NUM_VIEWS for view in range(NUM_VIEWS)]
        note, files = self.pack.read(int(self.numbers[index]))
        target, given = self._parts(note, files)
        return {
            "target_pixels": torch.stack([self._pixels(files, note, target["first"] + view) for view in order]),
            "input_pixels": self._pixels(files, note, given["first"] + start),
            "input_elevation": self._elevations(note)[start : start + 1],
            "start": start,
            "caption": note.get("caption") or "",
            "uid": PurePosixPath(note["name"]).name,
        }

    def _parts(self, note: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The target and the input part; BadData where an object has others, or lacks images of theirs."""
        parts = note["parts"]
        views = {part: len(content["transforms"].get("frames") or ()) for part, content in parts.items()}
        if views != {"target": NUM_VIEWS, "input": NUM_VIEWS}:
            found = ", ".join(f"{part or 'views'} with {count}" for part, count in views.items())
            raise BadData(
                f"{note['name']} in {str(self.pack.root)!r} has {found}; wanted are target and input with 16 views"
            )
        missing = [member(view) for view in range(2 * NUM_VIEWS) if not files.get(member(view))]
        if missing:
            raise BadData(f"{note['name']} in {str(self.pack.root)!r} lacks {', '.join(missing)}; pack it again")
        return parts["target"], parts["input"]

    def _elevations(self, note: Mapping[str, Any]) -> Float[Tensor, "views"]:
        """Of the input's cameras, in radians; BadData for poses that are none."""
        place = f"the input of {note['name']} in {str(self.pack.root)!r}"
        try:
            frames = note["parts"]["input"]["transforms"]["frames"]
            centers = torch.tensor([frame["transform_matrix"] for frame in frames])[:, :3, 3]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadData(
                f"an input in {str(self.pack.root)!r} has poses that are no 4x4 matrices ({error})"
            ) from error
        if not torch.isfinite(centers).all():
            raise BadData(f"{place} has poses with NaN or infinity")
        return spherical(centers)[1]

    def _pixels(self, files: Mapping[str, bytes], note: Mapping[str, Any], view: int) -> Float[Tensor, "3 h w"]:
        rgba = decode_image(files[member(view)], f"{note['name']}, {member(view)}")
        return training_image(rgba) * 2 - 1 if self.image_size is None else training_pixels(rgba, self.image_size)
