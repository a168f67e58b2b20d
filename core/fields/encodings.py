"""What networks see instead of raw coordinates: frequencies (NeRF) and real spherical harmonics (tiny-cuda-nn)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Frequencies(nn.Module):
    """x, sin(2^0 x), cos(2^0 x), ..., cos(2^(n-1) x) (Mildenhall et al. 2020, eq. 4, without the factor pi)."""

    def __init__(self, *, in_dim: int, num_frequencies: int) -> None:
        super().__init__()
        self.in_dim, self.num_frequencies = in_dim, num_frequencies
        self.out_dim = in_dim * (1 + 2 * num_frequencies)

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        octaves = [function(x * 2.0**k) for k in range(self.num_frequencies) for function in (torch.sin, torch.cos)]
        return torch.cat([x, *octaves], dim=-1)


def spherical_harmonics(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch num_bands"]:
    """The first degree^2 real spherical harmonics of unit `directions`, 1 <= degree <= 4.

    Order and signs are tiny-cuda-nn's (Condon-Shortley phase included), so that its weights mean the same here.
    """
    if not 1 <= degree <= 4:
        raise ValueError(f"spherical harmonics are written out for degree 1 to 4, got {degree}")
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    bands = [torch.full_like(x, 0.28209479177387814)]
    if degree > 1:
        bands += [-0.48860251190291987 * y, 0.48860251190291987 * z, -0.48860251190291987 * x]
    if degree > 2:
        bands += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.94617469575755997 * zz - 0.31539156525251999,
            -1.0925484305920792 * x * z,
            0.54627421529603959 * (xx - yy),
        ]
    if degree > 3:
        bands += [
            0.59004358992664352 * y * (yy - 3.0 * xx),
            2.8906114426405538 * x * y * z,
            0.45704579946446572 * y * (1.0 - 5.0 * zz),
            0.3731763325901154 * z * (5.0 * zz - 3.0),
            0.45704579946446572 * x * (1.0 - 5.0 * zz),
            1.4453057213202769 * z * (xx - yy),
            0.59004358992664352 * x * (3.0 * yy - xx),
        ]
    return torch.stack(bands, dim=-1)
