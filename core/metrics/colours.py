"""Whether two objects have the same colours, wherever these are: overlap of histograms (Swain and Ballard 1991)."""

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import BadImage

BINS = 5  # along each of red, green and blue; a value between two bins counts for both, so that no edge decides


def colour_overlap(
    images: Float[Tensor, "v 3 h w"],
    masks: Float[Tensor, "v h w"],
    others: Float[Tensor, "n 3 y x"],
    other_masks: Float[Tensor, "n y x"],
) -> float:
    """Share of the object's pixels, over all views, whose colours the other object has as often: 1 for equal shares.

    0 where one of the two has no object at all. Images in [0, 1]; masks weigh their pixels.
    """
    one, other = histogram(images, masks), histogram(others, other_masks)
    return float(torch.minimum(one, other).sum())


def histogram(images: Float[Tensor, "v 3 h w"], masks: Float[Tensor, "v h w"]) -> Float[Tensor, "bins"]:
    """Shares of the object's pixels in each of `BINS`^3 colours, with linear weights; all 0 for an empty mask."""
    if not (torch.isfinite(images).all() and torch.isfinite(masks).all()):
        raise BadImage("images or masks contain NaN or infinity")
    colours = images.double().movedim(1, -1)[masks > 0].clamp(0, 1) * (BINS - 1)
    weights = masks[masks > 0].double()
    low = colours.floor().clamp(max=BINS - 2)
    part = colours - low
    counts = weights.new_zeros(BINS**3)
    strides = torch.tensor([BINS**2, BINS, 1], device=low.device)
    for corner in torch.cartesian_prod(*[torch.arange(2, device=low.device)] * 3):
        index = ((low + corner).long() * strides).sum(dim=-1)
        share = torch.where(corner.bool(), part, 1 - part).prod(dim=-1)
        counts.index_add_(0, index, share * weights)
    return counts / counts.sum().clamp(min=1e-12)
