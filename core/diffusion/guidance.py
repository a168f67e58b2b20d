"""Guidance: how conditional and unconditional predictions are combined."""

from torch import Tensor


def classifier_free_guidance(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """eps_u + s (eps_c - eps_u) (Ho & Salimans 2022, in Stable Diffusion's scaling: s = 1 is no guidance)."""
    return unconditional + scale * (conditional - unconditional)
