"""Toybox as a training set: all views of a split in one memory-mapped array, packed on first use.

A split's pack is `<root>/<split>.npy`, uint8 [objects, 32 views, 4, H, W]: RGBA of the 16 target views, then of the 16
input views. It is written beside the data once, and again when the hash in the index no longer matches. Objects that
are broken are found as they are packed; where some may be dropped, their places in the array stay black and unread.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from core.cameras.poses import spherical
from core.data.conventions import NUM_VIEWS
from core.data.dropping import allow_dropped
from core.data.names import names_hash
from core.errors import BadData
from core.files import atomic_file
from core.images import training_image


@dataclass(frozen=True)
class ToyboxPack:
    """A split: RGBA views, memory-mapped, and what is said about each object that is not broken."""

    uids: list[str]
    captions: list[str]
    images: UInt8[np.ndarray, "places 32 4 height width"]
    elevations: Float[Tensor, "objects 16"]  # of the input views, radians
    sha256: str  # of the toybox, and of which of its objects are left out
    places: list[int]  # of the objects in `images`
    broken: dict[str, str]  # the objects left out, and why

    def pixels(self, number: int, views: list[int]) -> Float[Tensor, "views 3 height width"]:
        """Some of an object's 32 views, on white, in [-1, 1]."""
        return training_image(torch.from_numpy(self.images[self.places[number], views]).float() / 255) * 2 - 1


def open_pack(root: str | Path, split: str, max_dropped: float | None = 0.0) -> ToyboxPack:
    """The split's pack, made when it is missing or holds other data.

    Args:
        max_dropped: the fraction of objects that may be left out as broken; None: as many as were when it was packed.

    Raises BadData if `root` is no toybox, or more of its objects are broken.
    """
    root = Path(root)
    index = read_index(root)
    if split not in index["splits"]:
        raise BadData(f"toybox {str(root)!r} has no split {split!r}; it has {', '.join(index['splits'])}")
    uids = index["splits"][split]
    if not uids:
        raise BadData(f"split {split!r} of toybox {str(root)!r} is empty; make it with objects.{split}=50")
    pack = _read_pack(root, split, uids, index["sha256"])
    if pack is not None:
        _allow(pack.broken, len(uids), root / split, max_dropped)
        return pack
    _pack(root, split, uids, index["sha256"], max_dropped)
    pack = _read_pack(root, split, uids, index["sha256"])
    if pack is None:
        raise BadData(f"the pack of split {split!r} in {str(root)!r} cannot be read although it was just made")
    return pack


def _allow(broken: Mapping[str, str], total: int, folder: Path, max_dropped: float | None) -> None:
    """BadData for more broken objects than may be left out."""
    if max_dropped is not None:
        repair = f"remove their folders in {str(folder)!r} and run data_tools.toybox again"
        allow_dropped(len(broken), total, next(iter(broken.values()), ""), max_dropped, repair=repair)


def _read_pack(root: Path, split: str, uids: list[str], sha256: str) -> ToyboxPack | None:
    """What was packed before; None where that is missing, damaged, or of other data, and is to be packed again."""
    try:
        packed = json.loads((root / f"{split}.pack.json").read_text(encoding="utf-8"))
        images = np.load(root / f"{split}.npy", mmap_mode="r")
        broken = dict(packed.get("broken", {}))
        places = [place for place, uid in enumerate(uids) if uid not in broken]
        if packed["sha256"] != sha256 or len(images) != len(uids) or len(packed["captions"]) != len(places):
            return None
        if any(_is_whole(root / split / uid, images.shape[2:]) for uid in broken):  # repaired since
            return None
        kept = [uids[place] for place in places]
        key = hashlib.sha256(f"{sha256} {names_hash(kept)}".encode()).hexdigest() if broken else sha256
        return ToyboxPack(kept, packed["captions"], images, torch.tensor(packed["elevations"]), key, places, broken)
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return None


def read_index(root: Path) -> dict[str, Any]:
    """The toybox's index.json."""
    path = root / "index.json"
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if {"splits", "sha256"} - set(index):
            raise ValueError("it names no splits or no sha256")
        return index
    except FileNotFoundError as error:
        raise BadData(f"no toybox in {str(root)!r}; make it with: python -m data_tools.toybox out={root}") from error
    except (OSError, ValueError, TypeError) as error:
        raise BadData(f"{str(path)!r} is unreadable ({error}); remove it and run data_tools.toybox again") from error


class ToyboxViews:
    """SyncDreamer's training items: 16 target views and one input view, starting at a random azimuth.

    As in the official data (ldm/data/sync_dreamer.py): the start s is drawn uniformly, the targets are the views s,
    s + 1, ... (mod 16), the input is the input view s with its own elevation; white background, cut to 8 bits.

    Args:
        root: a folder made by data_tools.toybox.
        split: train, val or test.
        max_dropped: the fraction of objects that may be left out as broken; BadData when more are.
    """

    def __init__(self, *, root: str, split: str, max_dropped: float = 0.0) -> None:
        self.pack = open_pack(root, split, max_dropped)

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`target_pixels` [16, 3, H, W] and `input_pixels` [3, H, W] in [-1, 1], `input_elevation` [1] in radians,
        `start` (the view that the targets begin with), `caption` and `uid`."""
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        targets = [(start + view) % NUM_VIEWS for view in range(NUM_VIEWS)]
        pixels = self.pack.pixels(index, [*targets, NUM_VIEWS + start])
        return {
            "target_pixels": pixels[:NUM_VIEWS],
            "input_pixels": pixels[NUM_VIEWS],
            "input_elevation": self.pack.elevations[index, start : start + 1],
            "start": start,
            "caption": self.pack.captions[index],
            "uid": self.pack.uids[index],
        }


class ToyboxImages:
    """Every view of every object by itself, with its object's caption."""

    def __init__(self, *, root: str, split: str, max_dropped: float = 0.0) -> None:
        self.pack = open_pack(root, split, max_dropped)

    def __len__(self) -> int:
        return len(self.pack.uids) * 2 * NUM_VIEWS

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [3, H, W] in [-1, 1] and `caption`. Neighbouring indices are views of one object."""
        number, view = divmod(index, 2 * NUM_VIEWS)
        return {"pixels": self.pack.pixels(number, [view])[0], "caption": self.pack.captions[number]}


class ToyboxObjects:
    """One random view of each object, with its caption: no two items of an epoch share a caption."""

    def __init__(self, *, root: str, split: str, max_dropped: float = 0.0) -> None:
        self.pack = open_pack(root, split, max_dropped)

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [3, H, W] in [-1, 1] and `caption`."""
        view = int(torch.randint(2 * NUM_VIEWS, (), generator=generator))
        return {"pixels": self.pack.pixels(index, [view])[0], "caption": self.pack.captions[index]}


def _pack(root: Path, split: str, uids: list[str], sha256: str, max_dropped: float | None) -> None:
    """Write the split's arrays, and the notes that belong to them. BadData if more objects are broken than may be."""
    captions, elevations, broken = [], [], {}
    size = _first_size(root / split, uids)
    with atomic_file(root / f"{split}.npy") as temporary:
        images = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.uint8, shape=(len(uids), 2 * NUM_VIEWS, *size)
        )
        for place, uid in enumerate(uids):
            try:
                images[place], caption, heights = _read_object(root / split / uid, size)
                captions.append(caption)
                elevations.append(heights)
            except BadData as error:
                broken[uid] = str(error)
        _allow(broken, len(uids), root / split, max_dropped or 0.0)
        images.flush()
    packed = {"sha256": sha256, "captions": captions, "elevations": elevations, "broken": broken}
    with atomic_file(root / f"{split}.pack.json") as temporary:
        temporary.write_text(json.dumps(packed), encoding="utf-8")


def _first_size(folder: Path, uids: list[str]) -> tuple[int, ...]:
    """Of the first image that can be read [4, height, width]; its reader's BadData where no object has one."""
    fault: BadData | None = None
    for uid in uids:
        try:
            return _read_rgba(folder / uid / "target" / "images" / "000.png").shape
        except BadData as error:
            fault = fault or error
    raise fault or BadData(f"{str(folder)!r} has no objects")


def _read_object(
    folder: Path, size: tuple[int, ...]
) -> tuple[UInt8[np.ndarray, "32 4 height width"], str, list[float]]:
    """All that training reads of an object: images, caption, the inputs' elevations."""
    images = _object_images(folder, size)
    return images, *_caption_and_elevations(folder / "input" / "transforms.json")


def _is_whole(folder: Path, size: tuple[int, ...]) -> bool:
    try:
        _read_object(folder, size)
    except BadData:
        return False
    return True


def _caption_and_elevations(path: Path) -> tuple[str, list[float]]:
    """What the input's transforms.json says; elevations in radians."""
    place = path.relative_to(path.parents[2])
    try:
        transforms = json.loads(path.read_text(encoding="utf-8"))
        centers = torch.tensor([frame["transform_matrix"] for frame in transforms["frames"]])[:, :3, 3]
        caption = str(transforms["caption"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadData(f"{str(place)!r} is unreadable ({type(error).__name__}: {error})") from error
    if centers.shape != (NUM_VIEWS, 3) or not torch.isfinite(centers).all():
        raise BadData(f"{str(place)!r} has no {NUM_VIEWS} finite poses")
    return caption, spherical(centers)[1].tolist()


def _object_images(folder: Path, size: tuple[int, ...]) -> UInt8[np.ndarray, "32 4 height width"]:
    """The 8-bit images as they are: a view set's checks would take several times as long."""
    return np.stack([_read_rgba(folder / part / "images" / f"{i:03d}.png", size) for part in ("target", "input")
                     for i in range(NUM_VIEWS)])  # fmt: skip


def _read_rgba(path: Path, size: tuple[int, ...] | None = None) -> UInt8[np.ndarray, "4 height width"]:
    """BadData for what is no image, or not of that size [4, height, width]."""
    place = path.relative_to(path.parents[3])
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
    except OSError as error:
        raise BadData(f"{str(place)!r} is unreadable ({type(error).__name__}); make it again") from error
    if size is not None and pixels.shape != size:
        found, wanted = (f"{each[2]} x {each[1]}" for each in (pixels.shape, size))
        raise BadData(f"{str(place)!r} is {found} pixels instead of {wanted}")
    return pixels
