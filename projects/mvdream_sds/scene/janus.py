"""How similar an object's back is to its front: high where a face was painted on both sides ("Janus")."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from core.images import composite

SEEN = 0.5  # opacity above which a pixel shows the object
GRAY = 0.5


@torch.no_grad()
def front_back_similarity(rgba: Float[Tensor, "views 4 height width"]) -> float:
    """Mean SSIM of opposite views over the pixels where either shows the object; NaN where none does.

    An object whose sides all look alike scores as high as a Janus: what counts is the change in the course of a run,
    or beside another run of the same prompt.

    Args:
        rgba: an even number of views, evenly around, straight alpha.
    """
    half = len(rgba) // 2
    shown = composite(rgba.float(), GRAY)
    _, similarity = structural_similarity_index_measure(
        shown[:half], shown[half : 2 * half], data_range=1.0, return_full_image=True
    )
    seen = (rgba[:half, 3] > SEEN) | (rgba[half : 2 * half, 3] > SEEN)
    return similarity.mean(dim=1)[seen].mean().item()
