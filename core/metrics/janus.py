"""The Janus probe: how much an object's back looks like its front.

Text-to-3D by score distillation likes to show an object's face on every side ("Janus problem", Poole et al. 2022). The
probe compares views from opposite sides: 1 - FLIP, the difference that a person sees, over the pixels where either view
shows the object. It is 1 where half a turn changes nothing. Some objects are so (a plain ball), so that a number tells
something only beside the truth's, or in the course of one run.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import spherical
from core.errors import BadViewSet
from core.metrics.images import check_pair, flip_map
from core.types import Cameras


def back_likeness(
    front: Float[Tensor, "3 h w"],
    back: Float[Tensor, "3 h w"],
    front_mask: Float[Tensor, "h w"],
    back_mask: Float[Tensor, "h w"],
) -> float:
    """Likeness in [0, 1] of two views from opposite sides at one elevation, both on one background; images in [0, 1].

    1 where neither shows anything. Nothing is mirrored: a face on both sides looks the same from both.
    """
    check_pair(front, back)
    either = (front_mask > 0.5) | (back_mask > 0.5)
    if not either.any():
        return 1.0
    return 1 - float(flip_map(back, front)[either.cpu()].mean())


def janus(
    images: Float[Tensor, "v 3 h w"], masks: Float[Tensor, "v h w"], cameras: Cameras, *, within_deg: float = 1.0
) -> Float[Tensor, "pairs"]:
    """`back_likeness` of every pair of views that stand opposite each other; BadViewSet where none do.

    Args:
        within_deg: how far azimuth and elevation may be off.
    """
    pairs = opposite(cameras, within_deg)
    if not pairs:
        raise BadViewSet(f"of {len(images)} views no two are opposite each other; the Janus probe needs front and back")
    return torch.tensor(
        [back_likeness(images[a], images[b], masks[a], masks[b]) for a, b in pairs], dtype=torch.float64
    )


def opposite(cameras: Cameras, within_deg: float) -> list[tuple[int, int]]:
    """Places of views half a turn apart at one elevation, each pair once."""
    azimuth, elevation, _ = (values.rad2deg() for values in spherical(cameras.centers.double()))
    found = []
    for a in range(len(cameras)):
        for b in range(a + 1, len(cameras)):
            turn = abs(math.remainder(float(azimuth[b] - azimuth[a]) - 180, 360))
            if max(turn, abs(float(elevation[b] - elevation[a]))) <= within_deg:
                found.append((a, b))
    return found
