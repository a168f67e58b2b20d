"""Toybox as a training set: all views of a split in one memory-mapped array, packed on first use.

A split's pack is `<root>/<split>.npy`, uint8 [objects, 32 views, 4, H, W]: RGBA of the 16 target views, then of the 16
input views. It is written beside the data once, and again when the hash in the index no longer matches.
"""

import json
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
from core.errors import BadData
from core.files import atomic_file
from core.images import training_image


@dataclass(frozen=True)
class ToyboxPack:
    """A split: RGBA views, memory-mapped, and what is said about each object."""

    uids: list[str]
    captions: list[str]
    images: UInt8[np.ndarray, "objects 32 4 height width"]
    elevations: Float[Tensor, "objects 16"]  # of the input views, radians
    sha256: str  # of the toybox

    def pixels(self, number: int, views: list[int]) -> Float[Tensor, "views 3 height width"]:
        """Some of an object's 32 views, on white, in [-1, 1]."""
        return training_image(torch.from_numpy(self.images[number, views]).float() / 255) * 2 - 1


def open_pack(root: str | Path, split: str) -> ToyboxPack:
    """The split's pack, made when it is missing or holds other data; BadData if `root` is no toybox."""
    root = Path(root)
    index = read_index(root)
    if split not in index["splits"]:
        raise BadData(f"toybox {str(root)!r} has no split {split!r}; it has {', '.join(index['splits'])}")
    uids = index["splits"][split]
    if not uids:
        raise BadData(f"split {split!r} of toybox {str(root)!r} is empty; make it with objects.{split}=50")
    pack = _read_pack(root, split, uids, index["sha256"])
    if pack is None:
        _pack(root, split, uids, index["sha256"])
        pack = _read_pack(root, split, uids, index["sha256"])
    if pack is None:
        raise BadData(f"the pack of split {split!r} in {str(root)!r} cannot be read although it was just made")
    return pack


def _read_pack(root: Path, split: str, uids: list[str], sha256: str) -> ToyboxPack | None:
    """What was packed before; None where that is missing, damaged, or of other data, and is to be packed again."""
    try:
        packed = json.loads((root / f"{split}.pack.json").read_text(encoding="utf-8"))
        images = np.load(root / f"{split}.npy", mmap_mode="r")
        if packed["sha256"] != sha256 or len(images) != len(uids) or len(packed["captions"]) != len(uids):
            return None
        return ToyboxPack(uids, packed["captions"], images, torch.tensor(packed["elevations"]), sha256)
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
    """

    def __init__(self, *, root: str, split: str) -> None:
        self.pack = open_pack(root, split)

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

    def __init__(self, *, root: str, split: str) -> None:
        self.pack = open_pack(root, split)

    def __len__(self) -> int:
        return len(self.pack.uids) * 2 * NUM_VIEWS

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [3, H, W] in [-1, 1] and `caption`. Neighbouring indices are views of one object."""
        number, view = divmod(index, 2 * NUM_VIEWS)
        return {"pixels": self.pack.pixels(number, [view])[0], "caption": self.pack.captions[number]}


class ToyboxObjects:
    """One random view of each object, with its caption: no two items of an epoch share a caption."""

    def __init__(self, *, root: str, split: str) -> None:
        self.pack = open_pack(root, split)

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [3, H, W] in [-1, 1] and `caption`."""
        view = int(torch.randint(2 * NUM_VIEWS, (), generator=generator))
        return {"pixels": self.pack.pixels(index, [view])[0], "caption": self.pack.captions[index]}


def _pack(root: Path, split: str, uids: list[str], sha256: str) -> None:
    """Write the split's arrays, and the notes that belong to them. BadData counts the broken objects, if any."""
    captions, elevations, broken = [], [], []
    size = _read_rgba(root / split / uids[0] / "target" / "images" / "000.png").shape
    with atomic_file(root / f"{split}.npy") as temporary:
        images = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.uint8, shape=(len(uids), 2 * NUM_VIEWS, *size)
        )
        for number, uid in enumerate(uids):
            try:
                images[number] = _object_images(root / split / uid, size)
                caption, heights = _caption_and_elevations(root / split / uid / "input" / "transforms.json")
                captions.append(caption)
                elevations.append(heights)
            except BadData as error:
                broken.append(str(error))
        if broken:
            raise BadData(
                f"{len(broken)} of {len(uids)} objects of the split {split!r} are broken, the first: {broken[0]}; "
                f"remove their folders in {str(root / split)!r} and run data_tools.toybox again"
            )
        images.flush()
    packed = {"sha256": sha256, "captions": captions, "elevations": elevations}
    with atomic_file(root / f"{split}.pack.json") as temporary:
        temporary.write_text(json.dumps(packed), encoding="utf-8")


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
