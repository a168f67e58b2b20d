"""Multi-resolution hash grid (Müller et al. 2022), exactly as tiny-cuda-nn defines it, with linear interpolation.

All levels live in one flat parameter: level after level, entry after entry, features fastest. Its checkpoints load as
they are. This file is the plain reference; `backend="tinycudann"` computes the same on a GPU.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.errors import BadConfig

PRIMES = (1, 2654435761, 805459861)
UINT32 = 0xFFFFFFFF


@dataclass(frozen=True)
class Level:
    """Where a level's entries lie and how it maps [0, 1] to cells."""

    scale: float
    resolution: int
    size: int  # entries
    offset: int  # entries before this level
    hashed: bool


def grid_levels(num_levels: int, log2_size: int, base_resolution: int, growth: float) -> list[Level]:
    """The levels, computed in float32 as tiny-cuda-nn does: a rounding of the scale may change a resolution by one."""
    levels, offset = [], 0
    for index in range(num_levels):
        exponent = np.float32(index) * np.log2(np.float32(growth))
        scale = float(np.exp2(exponent) * np.float32(base_resolution) - np.float32(1))
        resolution = math.ceil(scale) + 1
        dense = resolution**3
        size = min(-(-dense // 8) * 8, 2**log2_size)
        levels.append(Level(scale, resolution, size, offset, hashed=dense > size))
        offset += size
    return levels


class HashGrid(nn.Module):
    """Points in [0, 1]^3 -> interpolated features, coarsest level first."""

    params: Tensor
    _scale: Tensor  # buffers
    _resolution: Tensor
    _size: Tensor
    _offset: Tensor
    _hashed: Tensor
    _corners: Tensor

    def __init__(
        self,
        *,
        num_levels: int = 16,
        features_per_level: int = 2,
        log2_size: int = 19,
        base_resolution: int = 16,
        growth: float = 1.447269237440378,
        backend: Literal["torch", "tinycudann"] = "torch",
    ) -> None:
        """
        Args:
            log2_size: a level has at most 2^log2_size entries; larger grids share them by hashing.
            growth: ratio of the resolutions of neighbouring levels.
        """
        super().__init__()
        self.levels = grid_levels(num_levels, log2_size, base_resolution, growth)
        self.features_per_level = features_per_level
        self.out_dim = num_levels * features_per_level
        num_entries = self.levels[-1].offset + self.levels[-1].size
        self._encoder: tuple[nn.Module, ...] = ()  # in a tuple, so that its parameter is not registered twice
        if backend == "tinycudann":
            self._encoder = (_tinycudann(num_levels, features_per_level, log2_size, base_resolution, growth),)
            self.params = cast(nn.Parameter, self._encoder[0].params)
        else:
            self.params = nn.Parameter(torch.empty(num_entries * features_per_level).uniform_(-1e-4, 1e-4))
        for name in ("scale", "resolution", "size", "offset", "hashed"):
            values = torch.tensor([getattr(level, name) for level in self.levels])
            self.register_buffer(f"_{name}", values, persistent=False)
        corners = torch.tensor([[corner >> axis & 1 for axis in range(3)] for corner in range(8)])
        self.register_buffer("_corners", corners, persistent=False)

    def forward(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        """Features at `points`; twice differentiable with respect to both `points` and the parameter."""
        if self._encoder:
            return self._encoder[0](points.reshape(-1, 3)).reshape(*points.shape[:-1], -1)
        position = points[..., None, :] * self._scale[:, None] + 0.5  # [*b, level, 3]
        cell = position.detach().floor()
        fraction = (position - cell)[..., None, :]
        weights = torch.where(self._corners.bool(), fraction, 1 - fraction).prod(-1)  # [*b, level, corner]
        index = self._entry(cell.long()[..., None, :] + self._corners)
        table = self.params.view(-1, self.features_per_level)
        values = table.index_select(0, index.reshape(-1)).view(*index.shape, self.features_per_level)
        return rearrange((values * weights[..., None]).sum(-2), "... level f -> ... (level f)")

    def _entry(self, vertex: Int[Tensor, "*batch level corner 3"]) -> Int[Tensor, "*batch level corner"]:
        """Row of the table for a grid vertex; 32-bit unsigned arithmetic, spelled out in 64-bit integers."""
        x, y, z = vertex.unbind(-1)
        resolution, size = self._resolution[:, None], self._size[:, None]
        dense = (x + y * resolution + z * resolution**2) & UINT32
        hashed = (x * PRIMES[0] & UINT32) ^ (y * PRIMES[1] & UINT32) ^ (z * PRIMES[2] & UINT32)
        # Quirk: the modulus also applies to dense levels, where the farthest corner wraps around to the first entries.
        return torch.where(self._hashed[:, None], hashed, dense) % size + self._offset[:, None]


def _tinycudann(num_levels: int, features: int, log2_size: int, base_resolution: int, growth: float) -> nn.Module:
    try:
        import tinycudann
    except (ImportError, OSError) as error:  # its extension refuses to load without a matching GPU driver
        raise BadConfig(
            f"hash grid backend 'tinycudann' was asked for but cannot be imported ({error}); use backend='torch'"
        ) from error
    config = {
        "otype": "HashGrid",
        "n_levels": num_levels,
        "n_features_per_level": features,
        "log2_hashmap_size": log2_size,
        "base_resolution": base_resolution,
        "per_level_scale": growth,
    }
    return tinycudann.Encoding(3, config, dtype=torch.float32)
