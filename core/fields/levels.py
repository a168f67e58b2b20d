"""The levels of a multi-resolution hash grid, as tiny-cuda-nn lays them out."""

import math
from dataclasses import dataclass

import numpy as np

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
