"""What a toybox caption says: colours, shapes, which shape has which colour, and how the parts are arranged.

The captions are those of the grammar in `data_tools.toybox`, exact sentences about every part. What is read here does
not change when the object is turned or mirrored: left and right, front and back stay unread, since one view tells them
only relative to the others. Rings are left out: two of 2080 objects have one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from core.errors import BadData

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.13, 0.12),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.97, 0.85, 0.14),
    "green": (0.16, 0.62, 0.20),
    "lime": (0.62, 0.88, 0.22),
    "cyan": (0.20, 0.80, 0.86),
    "blue": (0.13, 0.28, 0.86),
    "purple": (0.52, 0.18, 0.72),
    "pink": (0.97, 0.50, 0.70),
    "brown": (0.50, 0.29, 0.13),
    "gray": (0.55, 0.56, 0.58),
    "black": (0.13, 0.13, 0.15),
}
SHAPES = ("rounded box", "box", "cube", "sphere", "cylinder", "cone", "capsule", "diamond", "torus")
PLURALS = {"boxes": "box", "rounded boxes": "rounded box", "tori": "torus"}
_COLOR, _SHAPE = "|".join(COLORS), "|".join([*PLURALS, *SHAPES])
_PART = re.compile(rf"\b({_COLOR}) ({_SHAPE})s?\b")
_PAINTED = re.compile(rf"\b({_SHAPE}) with an? ({_COLOR}) front\b")
_FRONT = re.compile(rf"\b({_COLOR}) front\b")
ARRANGEMENTS: dict[str, re.Pattern[str]] = {
    "on top": re.compile(r"\bon top of\b"),
    "painted front": re.compile(r"\bwith an? \w+ front\b"),
    "on a slab": re.compile(r"\bstanding on an? flat\b"),
    "on legs": re.compile(r"\blegs\b"),
    "belt": re.compile(r"\baround its middle\b"),
    "two eyes": re.compile(r"\btwo small \w+ spheres on its front\b"),
    "two arms": re.compile(r"\bon its sides\b"),
    "small part": re.compile(r"\ban? small [\w ]+ on its (front|back|left side|right side)\b"),
    "beside": re.compile(r"\ban? small [\w ]+ (in front of|to the left of|to the right of) it\b"),
}
KINDS = ("color", "shape", "part", "arrangement")


@dataclass(frozen=True)
class Attributes:
    """Of an object.

    Args:
        color: of parts and of a painted front.
        shape: of parts.
        part: "red cube" for each part.
        arrangement: of the parts (`ARRANGEMENTS`).
    """

    color: frozenset[str]
    shape: frozenset[str]
    part: frozenset[str]
    arrangement: frozenset[str]

    def names(self) -> set[str]:
        """Those of `vocabulary`."""
        return {f"{kind}: {word}" for kind in KINDS for word in getattr(self, kind)}


def parse(caption: str) -> Attributes:
    """The attributes that a caption names; BadData for a sentence without any part of the grammar."""
    parts = [(color, PLURALS.get(shape, shape)) for color, shape in _PART.findall(caption.lower())]
    if not parts:
        raise BadData(f"caption {caption!r} names no part of a toybox object (as: a red cube on top of a blue cone)")
    return Attributes(
        color=frozenset([color for color, _ in parts] + _FRONT.findall(caption.lower())),
        shape=frozenset(shape for _, shape in parts),
        part=frozenset(f"{color} {shape}" for color, shape in parts),
        arrangement=frozenset(name for name, words in ARRANGEMENTS.items() if words.search(caption.lower())),
    )


def wearers(caption: str) -> dict[str, tuple[str, bool]]:
    """Which shape wears each colour, and whether it is its own (or paint on its front): no two parts share a colour."""
    parts = [(color, PLURALS.get(shape, shape)) for color, shape in _PART.findall(caption.lower())]
    painted = [(front, PLURALS.get(shape, shape)) for shape, front in _PAINTED.findall(caption.lower())]
    return {front: (shape, False) for front, shape in painted} | {color: (shape, True) for color, shape in parts}


def vocabulary() -> list[str]:
    """All attributes that a caption can name, as `kind: words`, in the order of `labels`."""
    return [
        *(f"color: {color}" for color in COLORS),
        *(f"shape: {shape}" for shape in SHAPES),
        *(f"part: {color} {shape}" for color in COLORS for shape in SHAPES),
        *(f"arrangement: {name}" for name in ARRANGEMENTS),
    ]


def labels(captions: Iterable[str]) -> Bool[Tensor, "captions attributes"]:
    """Which attributes of `vocabulary` each caption names."""
    named = [parse(caption).names() for caption in captions]
    return torch.tensor([[name in given for name in vocabulary()] for given in named])


def places(kind: str) -> list[int]:
    """Where the attributes of a kind stand in `vocabulary`."""
    return [place for place, name in enumerate(vocabulary()) if name.startswith(f"{kind}: ")]
