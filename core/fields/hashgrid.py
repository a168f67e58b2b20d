"""Multi-resolution hash grid (Müller et al. 2022), exactly as tiny-cuda-nn defines it, with linear interpolation.

All levels live in one flat parameter: level after level, entry after entry, features fastest. Its checkpoints load as
they are. Three backends compute the same: `plain` is the definition, `torch` (the default) does it by one lookup over
all levels and corners (`core/fields/lookup.py`), `tinycudann` is that package, on a GPU. `benchmarks/hashgrid.py` has
their ratio.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.config import number, whole
from core.errors import BadConfig
from core.fields.corners import Corners
from core.fields.levels import PRIMES, UINT32, grid_levels
from core.fields.lookup import interpolate

MOST_POINTS = 1 << 23  # of one lookup, whose places are counted in 32 bits


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
        backend: Literal["torch", "plain", "tinycudann"] = "torch",
    ) -> None:
        """
        Args:
            log2_size: a level has at most 2^log2_size entries; larger grids share them by hashing.
            growth: ratio of the resolutions of neighbouring levels.
            backend: "torch" is quick everywhere, "plain" the same mathematics spelled out, "tinycudann" a CUDA package.
        """
        super().__init__()
        sizes = {"num_levels": num_levels, "features_per_level": features_per_level, "log2_size": log2_size}
        for name, value in {**sizes, "base_resolution": base_resolution}.items():
            whole(name, value)
        number("growth", growth, 1)
        self.levels = grid_levels(num_levels, log2_size, base_resolution, growth)
        self.features_per_level, self.backend = features_per_level, backend
        self.out_dim = num_levels * features_per_level
        num_entries = self.levels[-1].offset + self.levels[-1].size
        self._encoder: tuple[nn.Module, ...] = ()  # in a tuple, so that its parameter is not registered twice
        if backend == "tinycudann":
            self._encoder = (_tinycudann(num_levels, features_per_level, log2_size, base_resolution, growth),)
            self.params = cast(nn.Parameter, self._encoder[0].params)
        else:
            self.params = nn.Parameter(torch.empty(num_entries * features_per_level).uniform_(-1e-4, 1e-4))
        self.corners = Corners(self.levels)
        for name in ("scale", "resolution", "size", "offset", "hashed"):
            values = torch.tensor([getattr(level, name) for level in self.levels])
            self.register_buffer(f"_{name}", values, persistent=False)
        corners = torch.tensor([[corner >> axis & 1 for axis in range(3)] for corner in range(8)])
        self.register_buffer("_corners", corners, persistent=False)

    def forward(self, points: Float[Tensor, "*batch 3"], active: int | None = None) -> Float[Tensor, "*batch features"]:
        """Features at `points`; twice differentiable with respect to both `points` and the parameter.

        Args:
            active: only so many levels, from the coarsest, are looked up; the others' features are 0. None: all.
        """
        flat, num_levels = points.reshape(-1, 3), len(self.levels)
        active = num_levels if active is None else active
        if not 0 < active <= num_levels:
            raise ValueError(f"expected 1 to {num_levels} active levels, got {active}")
        if self._encoder:
            features = self._encoder[0](flat)[:, : active * self.features_per_level]
        elif self.backend == "plain":
            features = self._plain(flat, active)
        elif len(flat) <= MOST_POINTS:
            features = self._fast(flat, active)
        else:
            features = torch.cat([self._fast(part, active) for part in flat.split(MOST_POINTS)])
        if active < num_levels:
            features = F.pad(features, (0, self.out_dim - features.shape[-1]))
        return features.view(*points.shape[:-1], self.out_dim)

    def _plain(self, points: Float[Tensor, "n 3"], active: int) -> Float[Tensor, "n features"]:
        index, weights = self._plain_corners(points, active)
        table = self.params.view(-1, self.features_per_level)
        values = table.index_select(0, index.reshape(-1)).view(*index.shape, self.features_per_level)
        return rearrange((values * weights[..., None]).sum(-2), "... level f -> ... (level f)")

    def _plain_corners(
        self, points: Float[Tensor, "n 3"], active: int
    ) -> tuple[Int[Tensor, "n level 8"], Float[Tensor, "n level 8"]]:
        """The rows of the table around each point, and their shares."""
        position = points[:, None, :] * self._scale[:active, None] + 0.5  # [n, level, 3]
        cell = position.detach().floor()
        fraction = (position - cell)[..., None, :]
        weights = torch.where(self._corners.bool(), fraction, 1 - fraction).prod(-1)
        return self._entry(cell.long()[..., None, :] + self._corners), weights

    def _entry(self, vertex: Int[Tensor, "*batch level corner 3"]) -> Int[Tensor, "*batch level corner"]:
        """Row of the table for a grid vertex; 32-bit unsigned arithmetic, spelled out in 64-bit integers."""
        x, y, z = vertex.unbind(-1)
        active = vertex.shape[-3]
        resolution, size = self._resolution[:active, None], self._size[:active, None]
        dense = (x + y * resolution + z * resolution**2) & UINT32
        hashed = (x * PRIMES[0] & UINT32) ^ (y * PRIMES[1] & UINT32) ^ (z * PRIMES[2] & UINT32)
        # Quirk: the modulus also applies to dense levels, where the farthest corner wraps around to the first entries.
        entry = torch.where(self._hashed[:active, None], hashed, dense) % size
        return entry + self._offset[:active, None]

    def _fast(self, points: Float[Tensor, "n 3"], active: int) -> Float[Tensor, "n features"]:
        """The same by one lookup over all levels and corners, in the layout [level, point, corner]."""
        if ((points > -0.25) & (points < 1.25)).all():
            index, weights = self.corners(points, active)
        else:  # too far outside for its shortcuts
            index, weights = self._plain_corners(points, active)
            index, weights = (rearrange(x, "n level corner -> level n corner") for x in (index.int(), weights))
        table = self.params.view(-1, self.features_per_level)
        features = interpolate(table, weights.reshape(-1, 8), index.reshape(-1, 8))
        return rearrange(features, "(level n) f -> n (level f)", level=active)


class ProgressiveBandHashGrid(nn.Module):
    """A hash grid whose finer levels join one by one as training goes on (threestudio); until then they are 0."""

    def __init__(self, *, grid: HashGrid, start_level: int, start_step: int, update_steps: int) -> None:
        """
        Args:
            start_level: levels at first.
            update_steps: steps between one level and the next, counted from `start_step`.
        """
        super().__init__()
        whole("start_level", start_level, most=len(grid.levels))
        whole("start_step", start_step, least=0)
        whole("update_steps", update_steps)
        self.grid, self.out_dim = grid, grid.out_dim
        self.start_level, self.start_step, self.update_steps = start_level, start_step, update_steps
        self.active = start_level

    def update_step(self, step: int) -> None:
        """Choose the levels of training step `step`, a function of it alone."""
        later = max(step - self.start_step, 0) // self.update_steps
        self.active = min(self.start_level + later, len(self.grid.levels))

    def forward(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        return self.grid(points, self.active)


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
