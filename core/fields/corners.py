"""The grid vertices around points, over all levels at once: quick, for points in or close to the unit cube.

Coordinates lie in planes [level, point] of 32-bit integers, whose products wrap exactly as unsigned ones do. What costs
time elsewhere is left out: no level needs a division (a hashed one has 2^k entries; few corners of a dense one lie
outside of it), and the products of axes are shared between corners.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.fields.levels import PRIMES, UINT32, Level

SIGNED_PRIMES = [prime - 2**32 if prime >= 2**31 else prime for prime in PRIMES]  # the same bits
CACHED = 1 << 19  # corners whose rows and shares are made together: smaller parts cost more in calls than they save


class Corners(nn.Module):
    """Points -> the table's rows around them, and each row's share (trilinear)."""

    scale: Tensor  # buffers
    dense: Tensor
    hashed: Tensor

    def __init__(self, levels: Sequence[Level]) -> None:
        super().__init__()
        self.num_dense = sum(not level.hashed for level in levels)
        if any(level.hashed for level in levels[: self.num_dense]):
            raise ValueError("expected dense levels before hashed ones: the levels must grow")
        scale = torch.tensor([[level.scale] for level in levels])
        dense = [[[level.resolution] for level in levels], [[level.size + level.offset] for level in levels]]
        hashed = [[[level.size - 1] for level in levels], [[level.offset] for level in levels]]
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("dense", torch.tensor(dense, dtype=torch.int32), persistent=False)
        self.register_buffer("hashed", torch.tensor(hashed, dtype=torch.int32), persistent=False)
        self.offsets = [level.offset for level in levels]

    def forward(
        self, points: Float[Tensor, "n 3"], active: int
    ) -> tuple[Int[Tensor, "level n 8"], Float[Tensor, "level n 8"]]:
        """Rows and shares on the first `active` levels; bit d of a corner's number is for axis d.

        Every coordinate must lie in (-0.25, 1.25). Shares are differentiable with respect to the points.
        """
        rows = torch.empty(active, len(points), 8, dtype=torch.int32, device=points.device)
        if points.requires_grad and torch.is_grad_enabled():
            return rows, self._fill(points, rows)
        shares = torch.empty(rows.shape, dtype=points.dtype, device=points.device)
        count = CACHED // (8 * active) if points.device.type == "cpu" else max(len(points), 1)
        for start in range(0, len(points), count):
            part = slice(start, start + count)
            self._fill(points[part], rows[:, part], shares[:, part])
        return rows, shares

    def _fill(
        self, points: Float[Tensor, "n 3"], rows: Int[Tensor, "level n 8"], shares: Tensor | None = None
    ) -> Float[Tensor, "level n 8"]:
        active = len(rows)
        position = points.T.contiguous()[:, None] * self.scale[:active] + 0.5  # [3, level, n]
        cell = position.detach().floor()
        upper = position - cell
        lower, cell = 1 - upper, cell.int()
        planes = torch.empty(8, *cell.shape[1:], dtype=torch.int32, device=points.device)
        dense = min(self.num_dense, active)
        if dense:
            self._dense_rows(cell[:, :dense], planes[:, :dense])
        if dense < active:
            self._hashed_rows(cell[:, dense:], planes[:, dense:])
        torch.stack(planes.unbind(), dim=-1, out=rows)
        xy = [(upper if corner & 1 else lower)[0] * (upper if corner & 2 else lower)[1] for corner in range(4)]
        products = [xy[corner & 3] * (upper if corner & 4 else lower)[2] for corner in range(8)]
        return torch.stack(products, dim=-1, out=shares)

    def _dense_rows(self, cell: Int[Tensor, "3 level n"], out: Int[Tensor, "8 level n"]) -> None:
        resolution, end = self.dense[:, : cell.shape[1]]
        x, y, z = cell[0], cell[1] * resolution, cell[2] * resolution**2 + self.hashed[1, : cell.shape[1]]
        _combine(torch.add, (x, x + 1), (y, y + resolution), (z, z + resolution**2), out)
        offset = self.hashed[1, : cell.shape[1]]
        # No corner lies before the first one, and none after the last.
        level, point = ((out[7] >= end) | (out[0] < offset)).nonzero(as_tuple=True)
        if len(level):  # Quirk: such corners wrap around to entries of the level, as unsigned numbers of 32 bits do.
            offset, size = offset[level, 0], self.hashed[0, level, 0] + 1
            out[:, level, point] = (((out[:, level, point] - offset).long() & UINT32) % size + offset).int()

    def _hashed_rows(self, cell: Int[Tensor, "3 level n"], out: Int[Tensor, "8 level n"]) -> None:
        mask, offset = self.hashed[:, self.num_dense : self.num_dense + cell.shape[1]]
        lower = [coordinate * prime for coordinate, prime in zip(cell, SIGNED_PRIMES, strict=True)]
        x, y, z = ((term & mask, (term + prime) & mask) for term, prime in zip(lower, SIGNED_PRIMES, strict=True))
        _combine(torch.bitwise_xor, x, y, z, out)
        out.add_(offset)


def _combine(
    operation: Callable[..., Tensor],
    x: tuple[Tensor, Tensor],
    y: tuple[Tensor, Tensor],
    z: tuple[Tensor, Tensor],
    out: Int[Tensor, "8 level n"],
) -> None:
    xy = [operation(x[corner & 1], y[corner >> 1]) for corner in range(4)]
    for corner in range(8):
        operation(xy[corner & 3], z[corner >> 2], out=out[corner])
