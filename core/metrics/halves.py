"""Agreement of two reconstructions, each from half of the views: what both halves say must be the same object.

The reconstruction is the visual hull (`core.metrics.consistency.visual_hull`): exact, without a network or a seed, and
done in a second. It judges silhouettes only, not colours or concavities.
"""

from jaxtyping import Float
from torch import Tensor

from core.errors import BadViewSet
from core.metrics.consistency import GRID, frame_of, reduced, visual_hull
from core.types import Cameras


def half_agreement(masks: Float[Tensor, "views h w"], cameras: Cameras, *, grid: int = GRID) -> float:
    """Overlap (IoU of occupancies) of the hulls of every other view and of the rest: 1 where they agree.

    A hull of fewer views is larger, so even true views stay a little below 1, the more the fewer they are.
    Raises BadViewSet for fewer than 4 views, and where a half's silhouettes share no space.
    """
    if len(masks) < 4:
        raise BadViewSet(f"{len(masks)} views; two halves of at least 2 views are needed")
    planes, cameras = reduced(masks[:, None], cameras)
    half_extent = frame_of(cameras)
    one, other = (visual_hull(planes[k::2, 0], cameras[slice(k, None, 2)], half_extent, grid) for k in (0, 1))
    for name, hull in (("first", one), ("second", other)):
        if not (hull > 0.5).any():
            raise BadViewSet(f"the silhouettes of the {name} half of the views share no space; nothing to compare")
    return float(one.minimum(other).sum() / one.maximum(other).sum())
