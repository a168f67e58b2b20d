"""Which cells of the cube hold something: nerfacc's estimator, as the scene's renderer uses it.

A cell's value is the optical depth of one marching step through it (density times step); it decays by 0.95 at each look
and rises to what is found. Cells above min(mean, 0.01) are occupied.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.config import whole
from core.render.occupancy import OccupancyGrid


class SceneOccupancy(OccupancyGrid):
    """Updated every `every` steps: all cells before step `warmup`, then a quarter of all and as many occupied ones."""

    def __init__(
        self,
        *,
        bound: float = 1.0,
        resolution: int = 32,
        threshold: float = 0.01,
        decay: float = 0.95,
        every: int = 16,
        warmup: int = 256,
    ) -> None:
        super().__init__(bound=bound, resolution=resolution, threshold=threshold, decay=decay)
        whole("every", every)
        whole("warmup", warmup, least=0)
        self.every, self.warmup = every, warmup

    def is_due(self, step: int) -> bool:
        """Whether training step `step` begins with an update."""
        return step % self.every == 0

    def box(self) -> Float[Tensor, "2 3"] | None:
        """The smallest box [low, high] around all occupied cells, in world units; None where nothing is."""
        places = self.occupied.view([self.resolution] * 3).nonzero()
        if len(places) == 0:
            return None
        bounds = torch.stack([places.amin(0), places.amax(0) + 1]).to(self.values.dtype)
        return (bounds / self.resolution * 2 - 1) * self.bound

    def _some_cells(self, generator: torch.Generator) -> Int[Tensor, "n"]:
        """nerfacc's choice: unlike the base's, every occupied cell where they are few."""
        num_cells, occupied = self.resolution**3, self.occupied.nonzero()[:, 0].cpu()
        anywhere = torch.randint(num_cells, (num_cells // 4,), generator=generator)
        if len(occupied) > num_cells // 4:
            occupied = occupied[torch.randint(len(occupied), (num_cells // 4,), generator=generator)]
        return torch.cat([anywhere, occupied]).unique()
