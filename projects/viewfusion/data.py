"""Pairs of views of one object: what Zero-1-to-3 learns from.

An item has `target_pixels` and `input_pixels` [3, H, W] in [-1, 1] (or what the frozen encoders make of them), and
`pose` [4], the target's relative to the input's (`projects.viewfusion.poses.relative`).

The official layout, `views_release`:

<root>/valid_paths.json              a list of object folders; the first 99 % train, the rest validate
<root>/<id>/{000..011}.png           RGBA
<root>/<id>/{000..011}.npy           world-to-camera 3 x 4, OpenGL axes, world z up
"""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.cameras.poses import from_world_to_camera, spherical
from core.config import one_of, whole
from core.data.dropping import usable
from core.data.encoded import encoded
from core.data.free_views import FreeViews
from core.data.names import unsafe
from core.data.reports import AUTO, broken_in_report, spread
from core.errors import BadData
from core.images import from_pil, read_image, to_pil
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from projects.viewfusion.poses import relative

log = logging.getLogger(__name__)

TRAINING_PERCENT = 99


class EncodedPairs:
    """Pairs of a toybox object's views from random poses, whose images went through the frozen encoders once.

    Exact: the autoencoder's noise is still drawn at every step, from stored means and log-variances (in 16 bits, whose
    rounding is far below that noise).

    Args:
        root: what data_tools.toybox makes with `free=`.
        split: train, val or test.
        latents: the autoencoder.
        image_encoder: gives the input view's token.
        cache: folder for the encoded views; a file there belongs to one data set and one network. One that is damaged
            is made again.
    """

    def __init__(self, *, root: str, split: str, latents: Latents, image_encoder: ImageEncoder, cache: str) -> None:
        views = FreeViews(root=root, split=split)
        polar = math.pi / 2 - views.angles[..., 1]
        self.poses = torch.stack([polar, views.angles[..., 0], views.angles[..., 2]], dim=-1)
        all_views, stem = range(views.num_views), Path(cache) / split
        self.moments = encoded(views, all_views, latents, lambda x: latents.moments(x).half(), stem, views.sha256)
        self.tokens = encoded(views, all_views, image_encoder, lambda x: image_encoder(x)[:, 0], stem, views.sha256)

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`target_moments` and `input_moments` [2c, h, w], `input_embedding` [1, e], `pose` [4]."""
        target, given = two_of(self.poses.shape[1], generator)
        return {
            "target_moments": torch.from_numpy(self.moments[index, target].astype(np.float32)),
            "input_moments": torch.from_numpy(self.moments[index, given].astype(np.float32)),
            "input_embedding": torch.from_numpy(self.tokens[index, given][None].copy()),
            "pose": relative(self.poses[index, target], self.poses[index, given]),
        }


class OfficialPairs:
    """Pairs of two different views of an object of `views_release`.

    Args:
        root: the folder with valid_paths.json.
        split: train, the first 99 % of the list, or val, the rest.
        image_size: side to which images are resized (bilinear).
        num_views: of each object, from 000 on; 12 in the released set, of which the official settings use 4.
        report: what data_tools.validate found, which is left out: its validation.json, auto (the one in `root`, if
            there is one), or None. Without one, training looks whether up to 1000 evenly spread objects have their
            files.
        max_dropped: the fraction of objects that may be left out because they are broken; BadData when more are.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str,
        image_size: int = 256,
        num_views: int = 12,
        report: str | None = AUTO,
        max_dropped: float = 0.0,
    ) -> None:
        one_of("split", split, ("train", "val"))
        whole("num_views", num_views, least=2)
        whole("image_size", image_size, least=8)
        self.root, self.image_size, self.num_views = Path(root), image_size, num_views
        names = read_names(self.root)
        reported = broken_in_report(report, self.root, names, lambda name: [self.root / name])
        broken = self._looked_at(names) if reported is None else reported
        cut = len(names) * TRAINING_PERCENT // 100
        kept = [index for index in usable(names, broken, max_dropped) if (index < cut) == (split == "train")]
        # One array of bytes instead of a list of strings: workers share it, and memory stays flat for millions.
        self.names = np.array([names[index].encode() for index in kept])

    def _looked_at(self, names: list[str]) -> dict[str, str]:
        """What a look at some objects' files, which opens none, finds broken: one at all would take hours."""
        chosen = [names[index] for index in spread(len(names))]
        log.info(
            "no validation report: a short look at %d of %d objects; data_tools.validate finds the rest",
            len(chosen),
            len(names),
        )
        faults = {name: self._fault(self.root / name) for name in chosen}
        return {name: fault for name, fault in faults.items() if fault is not None}

    def _fault(self, folder: Path) -> str | None:
        try:
            with os.scandir(folder) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except OSError as error:
            return f"no folder {str(folder)!r} ({error.strerror})"
        for file in (f"{view:03d}.{kind}" for view in range(self.num_views) for kind in ("png", "npy")):
            if not sizes.get(file):
                return f"{file} is {'empty' if file in sizes else 'missing'}"
        return None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`target_pixels`, `input_pixels`, `pose`. A UserError names the file that is missing or broken."""
        folder = self.root / bytes(self.names[index]).decode()
        target, given = two_of(self.num_views, generator)
        return {
            "target_pixels": self._pixels(folder / f"{target:03d}.png"),
            "input_pixels": self._pixels(folder / f"{given:03d}.png"),
            "pose": relative(read_pose(folder / f"{target:03d}.npy"), read_pose(folder / f"{given:03d}.npy")).float(),
        }

    def _pixels(self, path: Path) -> Float[Tensor, "3 size size"]:
        rgba = read_image(path)
        if rgba.shape[1] != rgba.shape[2]:
            raise BadData(f"{str(path)!r} is {rgba.shape[2]} x {rgba.shape[1]} pixels; renderings are square")
        return official_pixels(rgba, self.image_size)


def two_of(num_views: int, generator: torch.Generator) -> tuple[int, int]:
    """Two different views, each pair as likely as any other."""
    first, second = torch.randperm(num_views, generator=generator)[:2].tolist()
    return first, second


def read_names(root: Path) -> list[str]:
    """The objects of valid_paths.json; BadData for a list that is missing, broken, or unsafe."""
    path = root / "valid_paths.json"
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"no list of objects in {str(path)!r} ({error}); give the folder of views_release") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadData(f"{str(path)!r} is no list of folder names")
    if not names:
        raise BadData(f"{str(path)!r} lists no objects")
    for name in names:
        if (reason := unsafe(name)) is not None:
            raise BadData(f"{str(path)!r} lists {name!r}, {reason}; leave it out")
    return names


def read_pose(path: Path) -> Float[Tensor, "3"]:
    """A view's (polar, azimuth, radius), of its world-to-camera matrix."""
    try:
        matrix = torch.from_numpy(np.asarray(np.load(path), dtype=np.float64))
    except (OSError, ValueError, EOFError) as error:
        raise BadData(f"{str(path)!r} is no matrix ({error}); copy it again") from error
    if matrix.shape != (3, 4) or not matrix.isfinite().all():
        raise BadData(f"{str(path)!r} holds {tuple(matrix.shape)} numbers instead of 3 x 4 finite ones")
    azimuth, elevation, radius = spherical(from_world_to_camera(matrix)[:3, 3])
    return torch.stack([math.pi / 2 - elevation, azimuth, radius])


def official_pixels(rgba: Float[Tensor, "4 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """A rendering as Zero-1-to-3's training sees it, in [-1, 1].

    Pixels of no alpha at all become white; others keep their colour as it is, and nothing is composited. 8 bits are
    cut, not rounded, and the square resized by Pillow's bilinear filter.
    """
    rgb, alpha = rgba[:3], rgba[3:]
    image = torch.where(alpha == 0, torch.ones_like(rgb), rgb)
    image = from_pil(to_pil((image * 255).floor() / 255).resize((size, size), Image.Resampling.BILINEAR))
    return image * 2 - 1
