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
from core.errors import BadData
from core.files import atomic_file
from core.images import training_image

NUM_VIEWS = 16


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
    array, notes = root / f"{split}.npy", root / f"{split}.pack.json"
    packed = json.loads(notes.read_text(encoding="utf-8")) if notes.is_file() and array.is_file() else {}
    if packed.get("sha256") != index["sha256"]:
        packed = _pack(root, split, uids, index["sha256"])
    images, elevations = np.load(array, mmap_mode="r"), torch.tensor(packed["elevations"])
    return ToyboxPack(uids, packed["captions"], images, elevations, index["sha256"])


def read_index(root: Path) -> dict[str, Any]:
    """The toybox's index.json."""
    path = root / "index.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadData(f"no toybox in {str(root)!r}; make it with: python -m data_tools.toybox out={root}") from error
    except (OSError, ValueError) as error:
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


def _pack(root: Path, split: str, uids: list[str], sha256: str) -> dict[str, Any]:
    """Write the split's arrays; returns the notes that belong to them."""
    captions, elevations = [], []
    first = _object_images(root / split / uids[0])
    with atomic_file(root / f"{split}.npy") as temporary:
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(len(uids), *first.shape))
        for number, uid in enumerate(uids):
            images[number] = _object_images(root / split / uid)
            transforms = json.loads((root / split / uid / "input" / "transforms.json").read_text(encoding="utf-8"))
            centers = torch.tensor([frame["transform_matrix"] for frame in transforms["frames"]])[:, :3, 3]
            captions.append(transforms["caption"])
            elevations.append(spherical(centers)[1].tolist())
        images.flush()
    packed = {"sha256": sha256, "captions": captions, "elevations": elevations}
    with atomic_file(root / f"{split}.pack.json") as temporary:
        temporary.write_text(json.dumps(packed), encoding="utf-8")
    return packed


def _object_images(folder: Path) -> UInt8[np.ndarray, "32 4 height width"]:
    """The 8-bit images as they are: a view set's checks would take several times as long."""
    return np.stack([_read_rgba(folder / part / "images" / f"{i:03d}.png") for part in ("target", "input")
                     for i in range(NUM_VIEWS)])  # fmt: skip


def _read_rgba(path: Path) -> UInt8[np.ndarray, "4 height width"]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
    except OSError as error:
        folder = path.parents[2]
        raise BadData(f"{str(path)!r} is unreadable ({error}); remove {str(folder)!r} and make it again") from error
