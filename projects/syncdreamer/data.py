"""SyncDreamer's official training layout: target views at fixed cameras, input views at random elevations.

target_dir/<uid>/000.png ... 015.png
input_dir/<uid>/000.png ... 015.png, meta.pkl = [K, azimuths, elevations (radians), distances, poses]
a list of uids: uid_set.pkl, or a text file with one a line
"""

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.checkpoints.datafiles import read_legacy_pickle, read_names
from core.config import whole
from core.data.dropping import usable
from core.data.names import unsafe
from core.data.reports import AUTO, broken_in_report, spread
from core.errors import BadData, UserError
from core.images import prepare_input, read_image, training_pixels

log = logging.getLogger(__name__)

NUM_VIEWS = 16


def read_uids(path: str | Path) -> list[str]:
    """Names of objects, from a pickled list (read without running anything in it) or a text file."""
    path = Path(path)
    if not path.is_file():
        raise BadData(f"no list of uids at {str(path)!r}; give uid_set.pkl or a text file with one uid a line")
    uids = read_names(path)
    if not uids:
        raise BadData(f"{str(path)!r} lists no objects")
    if len(set(uids)) != len(uids):
        raise BadData(f"{str(path)!r} lists {len(uids) - len(set(uids))} uids twice; list each once")
    for uid in uids:
        if (reason := unsafe(uid)) is not None:
            raise BadData(f"{str(path)!r} lists {uid!r}, {reason}; leave it out")
    return uids


class ValidationPictures:
    """Pictures to look at while training, as officially: every PNG of a folder, cropped to 200 of 256 pixels.

    The elevation in degrees is the integer after the last `-` of the name (`chair-20.png`).
    """

    def __init__(self, *, folder: str, image_size: int = 256, crop_size: int = 200) -> None:
        whole("crop_size", crop_size, most=image_size)
        self.paths = sorted(Path(folder).glob("*.png"))
        if not self.paths:
            raise BadData(f"no pictures *.png in {folder!r}; name them like chair-20.png (20 degrees high)")
        self.elevations = [_elevation_deg(path) for path in self.paths]
        self.image_size, self.crop_size = image_size, crop_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`input_pixels` [3, H, W] in [-1, 1], `input_elevation` [1] in radians."""
        pixels = prepare_input(read_image(self.paths[index]), crop_size=self.crop_size, size=self.image_size)
        return {"input_pixels": pixels, "input_elevation": torch.tensor([math.radians(self.elevations[index])])}


def validation_pictures(
    *, folder: str | None, image_size: int = 256, crop_size: int = 200
) -> ValidationPictures | None:
    """The pictures of a folder; None stands for no pictures."""
    if folder is None:
        return None
    return ValidationPictures(folder=folder, image_size=image_size, crop_size=crop_size)


def _elevation_deg(path: Path) -> int:
    try:
        return int(path.stem.rpartition("-")[2])
    except ValueError as error:
        raise BadData(
            f"{str(path)!r}: no elevation after the last '-' of the name; name it like chair-20.png"
        ) from error


class OfficialViews:
    """Items [target_pixels 16 x 3 x H x W and input_pixels in [-1, 1], input_elevation in radians].

    View s is the input and the first target, s drawn uniformly; the others follow around the ring.
    """

    def __init__(
        self,
        *,
        target_dir: str,
        input_dir: str,
        uids: str,
        image_size: int = 256,
        report: str | None = AUTO,
        max_dropped: float = 0.0,
    ) -> None:
        """
        Args:
            report: what data_tools.validate found: a path; auto: validation.json in the folder that holds both, if
                it is there; None: none. Without one, training looks whether each object has its folders, and of up to
                1000 evenly spread objects at the files' sizes and the elevations.
            max_dropped: the fraction of objects that may be left out because they are broken; BadData when more are.
        """
        self.targets, self.inputs = Path(target_dir), Path(input_dir)
        for folder in (self.targets, self.inputs):
            if not folder.is_dir():
                raise BadData(f"no folder {str(folder)!r}; it should hold <uid>/000.png ... 015.png")
        # One array of bytes instead of a list of strings: workers share it, and memory stays flat for millions.
        names = read_uids(uids)
        root = Path(os.path.commonpath([self.targets.absolute(), self.inputs.absolute()]))
        reported = broken_in_report(report, root, names, lambda uid: [self.targets / uid, self.inputs / uid])
        broken = self._without_folders(names)
        broken |= self._look(names, broken) if reported is None else reported
        self.uids = np.array([names[index].encode() for index in usable(names, broken, max_dropped)])
        self.image_size = image_size

    def _without_folders(self, names: list[str]) -> dict[str, str]:
        """The objects that lack a folder, by one listing of each part: a look at every file would take hours."""
        missing: dict[str, str] = {}
        for part in (self.targets, self.inputs):
            with os.scandir(part) as entries:
                there = {entry.name for entry in entries}
            deeper = {name for name in names if "/" in name and (part / name).is_dir()}
            missing |= {name: f"no folder {str(part / name)!r}" for name in names if name not in there | deeper}
        return missing

    def _look(self, names: list[str], missing: Mapping[str, str]) -> dict[str, str]:
        """What a look at the files, which reads no image, finds wrong with objects that have their folders."""
        looked_at = [names[index] for index in spread(len(names))]
        log.info(
            "no validation report: a short look at %d of %d objects; data_tools.validate finds the rest",
            len(looked_at),
            len(names),
        )
        faults = {uid: self._fault(uid) for uid in looked_at if uid not in missing}
        return {uid: fault for uid, fault in faults.items() if fault is not None}

    def _fault(self, uid: str) -> str | None:
        for part, folder in (("target", self.targets), ("input", self.inputs)):
            with os.scandir(folder / uid) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            for view, file in enumerate(f"{view:03d}.png" for view in range(NUM_VIEWS)):
                if not sizes.get(file):
                    return f"{part}, view {view}: {file} is {'empty' if file in sizes else 'missing'}"
        try:
            self._elevations(uid)
        except UserError as error:
            return f"input: {error}"
        return None

    def __len__(self) -> int:
        return len(self.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        uid = bytes(self.uids[index]).decode()
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        order = [(start + i) % NUM_VIEWS for i in range(NUM_VIEWS)]
        return {
            "target_pixels": torch.stack([self._pixels(self.targets / uid / f"{view:03d}.png") for view in order]),
            "input_pixels": self._pixels(self.inputs / uid / f"{start:03d}.png"),
            "input_elevation": self._elevations(uid)[start : start + 1],
        }

    def _pixels(self, path: Path) -> Float[Tensor, "3 size size"]:
        return training_pixels(read_image(path), self.image_size)

    def _elevations(self, uid: str) -> Float[Tensor, "views"]:
        path = self.inputs / uid / "meta.pkl"
        meta = read_legacy_pickle(path)
        try:
            elevations = torch.as_tensor(np.asarray(meta[2], dtype=np.float32).reshape(-1))
        except (TypeError, IndexError, KeyError, ValueError) as error:
            raise BadData(f"{str(path)!r} is not [K, azimuths, elevations, distances, poses] ({error})") from error
        if len(elevations) != NUM_VIEWS or not torch.isfinite(elevations).all():
            raise BadData(f"{str(path)!r} has {len(elevations)} elevations, some not finite, instead of {NUM_VIEWS}")
        return elevations
