"""Which cells of a cube hold something: skips empty space in volume rendering (Müller et al. 2022, appendix E.2)."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.config import number, whole


class OccupancyGrid(nn.Module):
    """A moving maximum of a field over the cells of [-bound, bound]^3, and the bits of the cells above a threshold."""

    def __init__(
        self, *, bound: float = 0.6, resolution: int = 128, threshold: float = 0.01, decay: float = 0.95
    ) -> None:
        """Args: a cell counts as occupied above min(threshold, mean of the grid)."""
        super().__init__()
        number("bound", bound, 0, above=True)
        whole("resolution", resolution)
        number("threshold", threshold, 0)
        number("decay", decay, 0, 1)
        self.bound, self.resolution, self.threshold, self.decay = bound, resolution, threshold, decay
        self.values: Tensor
        self.occupied: Tensor
        self.register_buffer("values", torch.zeros(resolution**3))
        self.register_buffer("occupied", torch.ones(resolution**3, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self,
        field: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
        generator: torch.Generator,
        *,
        everywhere: bool,
        chunk: int = 1 << 18,
    ) -> None:
        """Look at a random point in every cell (`everywhere`), or in a quarter of all and as many occupied ones."""
        device = self.values.device
        cells = torch.arange(self.resolution**3) if everywhere else self._some_cells(generator)
        jitter = torch.rand(len(cells), 3, generator=generator).to(device)
        cells = cells.to(device)
        corner = torch.stack([cells // self.resolution**2, cells // self.resolution % self.resolution], dim=-1)
        corner = torch.cat([corner, (cells % self.resolution)[:, None]], dim=-1)
        points = ((corner + jitter) / self.resolution * 2 - 1) * self.bound
        fresh = torch.cat([field(part) for part in points.split(chunk)])
        self.values[cells] = torch.maximum(self.values[cells] * self.decay, fresh)
        self.occupied.copy_(self.values > self.values.mean().clamp(max=self.threshold))

    def _some_cells(self, generator: torch.Generator) -> Int[Tensor, "n"]:
        """A quarter of all cells, and as many of the occupied ones, drawn with replacement; each once."""
        num_cells, occupied = self.resolution**3, self.occupied.nonzero()[:, 0].cpu()
        pick = torch.randint(max(len(occupied), 1), (min(num_cells // 4, len(occupied)),), generator=generator)
        anywhere = torch.randint(num_cells, (num_cells // 4,), generator=generator)
        return torch.cat([anywhere, occupied[pick]]).unique()

    def __call__(self, points: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
        """Whether points lie in occupied cells; outside of the cube nothing does."""
        cell = ((points / self.bound + 1) * 0.5 * self.resolution).floor().long()
        inside = ((cell >= 0) & (cell < self.resolution)).all(-1)
        cell = cell.clamp(0, self.resolution - 1)
        flat = (cell[..., 0] * self.resolution + cell[..., 1]) * self.resolution + cell[..., 2]
        return inside & self.occupied[flat]
