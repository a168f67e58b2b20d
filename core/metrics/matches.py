"""What features tell of the agreement of neighbouring views: SIFT matches (Lowe 2004), as ViewFusion counts them.

Needs texture and some hundred pixels: plainly coloured objects at 64 x 64 pixels have next to no features (then
`core.metrics.consistency` still ranks).
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.cameras.rays import project
from core.errors import BadViewSet
from core.types import Cameras

RATIO = 0.75  # Lowe's: the best match must be this much nearer than the second


def neighbours(num_views: int) -> list[tuple[int, int]]:
    """Each view and the next, the last and the first included; two views are one pair."""
    if num_views < 2:
        raise BadViewSet(f"{num_views} view has no neighbour; measures between neighbours need at least 2")
    return [(view, (view + 1) % num_views) for view in range(num_views if num_views > 2 else 1)]


def sift_matches(images: Float[Tensor, "v 3 h w"]) -> Int[Tensor, "pairs"]:
    """Number of good SIFT matches from each view to the next; 0 where a view has no features."""
    found = [_features(image) for image in images]
    return torch.tensor([len(_matched(found[a], found[b])[0]) for a, b in neighbours(len(images))])


def reprojection_error(images: Float[Tensor, "v 3 h w"], cameras: Cameras) -> Float[Tensor, "views"]:
    """Per pair of neighbours with matches: median distance in pixels from a matched feature to its point's image.

    A match's point is triangulated from both views by their cameras (Hartley and Sturm 1997, linear), and projected
    back into both. Pairs without a match are left out; BadViewSet if none is left.
    """
    found = [_features(image) for image in images]
    cameras = cameras.to("cpu")  # as what OpenCV finds
    matrices = cameras.intrinsics.double() @ cameras.world_to_camera[:, :3].double()
    errors = []
    for a, b in neighbours(len(images)):
        pixels = _matched(found[a], found[b])
        if len(pixels[0]) == 0:
            continue
        corners = [view_pixels.T.astype(np.float64) for view_pixels in pixels]
        homogeneous = cv2.triangulatePoints(matrices[a].numpy(), matrices[b].numpy(), *corners)
        points = torch.from_numpy((homogeneous[:3] / homogeneous[3]).T)
        distances = [
            (project(points, cameras[view].to(torch.float64))[0] - torch.from_numpy(at).double()).norm(dim=-1)
            for view, at in zip((a, b), pixels, strict=True)
        ]
        errors.append(torch.cat(distances).median())
    if not errors:
        raise BadViewSet("no two neighbouring views have a matching feature; nothing can be projected back")
    return torch.stack(errors)


def _features(image: Float[Tensor, "3 h w"]) -> tuple[Sequence[Any], np.ndarray | None]:
    """SIFT's key points and descriptors of the gray picture."""
    # Quirk: ViewFusion's gray is the plain mean of the three channels, cut (not rounded) to 8 bits.
    gray = (image.float().mean(dim=0) * 255).clamp(0, 255).to(torch.uint8).cpu().numpy()
    points, descriptors = cv2.SIFT.create().detectAndCompute(np.ascontiguousarray(gray), None)
    return points, descriptors


def _matched(
    one: tuple[Sequence[Any], np.ndarray | None], other: tuple[Sequence[Any], np.ndarray | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n, 2] of the good matches in both views, centres at integer + 0.5."""
    none = np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    if one[1] is None or other[1] is None or len(other[1]) < 2:
        return none
    candidates = cv2.BFMatcher().knnMatch(one[1], other[1], k=2)
    good = [best for best, second in candidates if best.distance < RATIO * second.distance]
    if not good:
        return none
    at = [one[0][match.queryIdx].pt for match in good], [other[0][match.trainIdx].pt for match in good]
    return np.array(at[0], np.float32) + 0.5, np.array(at[1], np.float32) + 0.5
