"""sRGB <-> linear light (IEC 61966-2-1)."""

import torch
from jaxtyping import Float
from torch import Tensor


def to_linear(srgb: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """sRGB in [0, 1] to linear light."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Linear light in [0, 1] to sRGB; the gradient at 0 is finite."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)
