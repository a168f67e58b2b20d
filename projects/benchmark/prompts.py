"""Measures of what was made from a caption: what stands in a protocol's `sets`, `texts` and `alone`.

A caption leaves open which way an object is turned and how large its parts are, so some measures here are blind to it.
Attributes are found by a small network (`core.models.attributes`), which errs, on true views too: its scores have a
ceiling, and mean something beside those of the true views only.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.cameras.poses import spherical
from core.data.toybox_captions import labels, places, vocabulary
from core.errors import BadViewSet
from core.files import sha256_file
from core.metrics.attributes import Score, agreement, jaccard
from core.metrics.colours import colour_overlap as overlap
from core.metrics.images import mask_iou
from core.metrics.janus import janus
from core.models.attributes import AttributeNet, attribute_net, shown
from core.models.bundled import weights_folder
from projects.benchmark.pairing import by_direction
from projects.benchmark.pictures import Pictures, needed_cameras

Kind = Literal["all", "color", "shape", "part", "arrangement"]
WITHIN_DEG = 1.0  # how far a predicted and a true camera may be apart
EVEN = ("color", "shape", "part")  # attributes of which views of one object share most


def turned_iou(made: Pictures, true: Pictures, *, turns: int = 16) -> float:
    """Overlap of silhouettes, mean over views, after the turn about the z axis that suits best.

    Args:
        turns: how many, evenly spaced; the true views must show the object from each turned camera.
    """
    scores = []
    for turn in range(turns):
        seen = true.chosen(turned(made, true, 2 * math.pi * turn / turns))
        scores.append(float(mask_iou(made.masks, seen.masks).mean()))
    return max(scores)


def turned(made: Pictures, true: Pictures, angle: float) -> list[int]:
    """For each predicted view, the place of the true one that stands `angle` radians further around."""
    azimuth, elevation, _ = spherical(needed_cameras(made).centers.double())
    azimuths, elevations, _ = spherical(needed_cameras(true).centers.double())
    apart = (azimuths - azimuth[:, None] - angle + math.pi).remainder(2 * math.pi) - math.pi
    off = torch.maximum(apart.abs(), (elevations - elevation[:, None]).abs()).rad2deg()
    nearest, found = off.min(dim=1)
    if (nearest > WITHIN_DEG).any():
        raise BadViewSet(
            f"the truth has no view at predicted view {made.numbers[int(nearest.argmax())]} turned by "
            f"{math.degrees(angle):g} degrees; render it from a ring of cameras at the same elevation"
        )
    return found.tolist()


def colour_overlap(made: Pictures, true: Pictures) -> float:
    """Overlap of the colours of all predicted views with those of the true views from the same cameras."""
    seen = true.chosen(by_direction(made, true, WITHIN_DEG))
    return overlap(made.images, made.masks, seen.images, seen.masks)


def janus_excess(made: Pictures, true: Pictures) -> float:
    """How much more the back looks like the front than in the true views from the same cameras; 0 if it does not."""
    seen = true.chosen(by_direction(made, true, WITHIN_DEG))
    return max(0.0, _janus(made) - _janus(seen))


def _janus(views: Pictures) -> float:
    return float(janus(views.images, views.masks, needed_cameras(views), within_deg=WITHIN_DEG).mean())


class _Judge:
    """Holds the network, which is loaded, and found to be missing, when a protocol is built."""

    def __init__(self, *, folder: str = "toybox_attributes") -> None:
        self.folder = folder
        self.net = _net(folder)

    def weights(self) -> dict[str, str]:
        """What was read."""
        path = weights_folder(self.folder)
        return {"folder": path.name} | {file.name: sha256_file(file) for file in sorted(path.glob("*.safetensors"))}

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v attributes"]:
        """Log-odds of what each view shows."""
        return self.net(images.float() * 2 - 1)


class NamedAttributes(_Judge):
    """How well the attributes that the views show agree with those that their object's caption names.

    Args:
        kind: of attributes; `all` takes them together.
        score: recall, precision or F1 (`core.metrics.attributes`).
        pooled: one answer of all views (an attribute is there if some view shows it); else one per view, which cannot
            see everything and so has no full recall on true views either.
        folder: of the network, or a bundled one's name.
    """

    def __init__(
        self, *, kind: Kind = "all", score: Score = "f1", pooled: bool = True, folder: str = "toybox_attributes"
    ) -> None:
        super().__init__(folder=folder)
        self.at = list(range(len(vocabulary()))) if kind == "all" else places(kind)
        self.score, self.pooled = score, pooled

    def __call__(self, images: Float[Tensor, "v 3 h w"], own: int, captions: Sequence[str]) -> Float[Tensor, "n"]:
        logits = self.logits(images)
        found: Bool[Tensor, "n attributes"] = (shown(logits) > 0.5)[None] if self.pooled else logits > 0
        named = labels([captions[own]]).expand_as(found)
        return agreement(found[:, self.at], named[:, self.at], self.score)


class AttributeAgreement(_Judge):
    """How far the views show the same colours, shapes and parts: common over all, mean over pairs of views.

    True views do not agree fully either, as each hides something; one picture repeated does.
    """

    def __call__(self, views: Pictures) -> float:
        at = [place for kind in EVEN for place in places(kind)]
        return float(jaccard(self.logits(views.images)[:, at] > 0))


@lru_cache(maxsize=1)
def _net(folder: str | Path) -> AttributeNet:
    """Several measures share one."""
    return attribute_net(folder)
