"""Where along its rays a scene is looked at: the midpoints of a regular lattice that lie in occupied cells.

The lattice of a ray is t_k = (k + jitter) step, from the camera on. nerfacc walks from cell to cell; here all
candidates of many rays are made at once, inside the smallest box around what is occupied: the same samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.render.volume import density_weights, ray_any_box, visible
from core.types import Rays
from projects.mvdream_sds.scene.occupancy import SceneOccupancy

CANDIDATES = 1 << 22  # looked at together: about 200 MB


@dataclass(frozen=True)
class Samples:
    """Sections [t_start, t_start + step] of rays, packed: `ray` is ascending and says whose each is."""

    ray: Int[Tensor, "n"]
    t_start: Float[Tensor, "n"]
    step: float

    @property
    def t_end(self) -> Float[Tensor, "n"]:
        return self.t_start + self.step

    def __len__(self) -> int:
        return len(self.ray)

    def __getitem__(self, index: Tensor | slice) -> "Samples":
        return Samples(self.ray[index], self.t_start[index], self.step)

    def positions(self, rays: Rays) -> Float[Tensor, "n 3"]:
        """World points of the sections' middles."""
        middle = (self.t_start + self.step / 2)[:, None]
        return rays.origins[self.ray] + rays.directions[self.ray] * middle


@torch.no_grad()
def occupied_samples(
    rays: Rays,
    occupancy: SceneOccupancy,
    step: float,
    jitter: Float[Tensor, "rays"] | None = None,
    *,
    skip: bool = True,
) -> Samples:
    """All lattice sections of rays [R] whose middle lies in an occupied cell.

    Args:
        jitter: shifts each ray's lattice by this part of a step.
        skip: false takes every section inside the cube instead.
    """
    bound = occupancy.bound
    box = occupancy.box() if skip else rays.origins.new_tensor([[-bound] * 3, [bound] * 3])
    none = Samples(torch.zeros(0, dtype=torch.long, device=rays.origins.device), rays.origins.new_zeros(0), step)
    if box is None:
        return none
    shift = jitter if jitter is not None else rays.origins.new_zeros(len(rays.origins))
    first, count = _ranges(rays, box, step, shift)
    parts = []
    ends = count.cumsum(0)
    start = 0
    while start < len(count):  # as many rays as CANDIDATES allows, at least one
        limit = (ends[start - 1] if start else 0) + CANDIDATES
        stop = max(start + 1, int(torch.searchsorted(ends, limit, right=True)))
        part = slice(start, stop)
        ray = torch.repeat_interleave(torch.arange(start, stop, device=count.device), count[part])
        before = (ends - count)[ray] - (ends[start - 1] if start else 0)
        number = first[ray] + torch.arange(len(ray), device=ray.device) - before
        samples = Samples(ray, (number + shift[ray]) * step, step)
        points = samples.positions(rays)
        parts.append(samples[occupancy(points) if skip else (points.abs() <= bound).all(-1)])
        start = stop
    if not parts:
        return none
    return Samples(torch.cat([part.ray for part in parts]), torch.cat([part.t_start for part in parts]), step)


def _ranges(
    rays: Rays, box: Float[Tensor, "2 3"], step: float, shift: Float[Tensor, "rays"]
) -> tuple[Int[Tensor, "rays"], Int[Tensor, "rays"]]:
    """First section and number of sections of each ray whose middles may lie in `box`; one more at either end."""
    near, far, hit = ray_any_box(rays, box)
    first = (near / step - 0.5 - shift).floor().clamp(min=0)
    last = (far / step - 0.5 - shift).ceil()
    return first.long(), torch.where(hit, last - first + 1, 0).clamp(min=0).long()


@torch.no_grad()
def visible_samples(
    samples: Samples,
    density: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 1"]],
    rays: Rays,
    *,
    min_transmittance: float = 1e-4,
    min_alpha: float = 0.01,
    chunk: int,
) -> Samples:
    """Those that light reaches and that stop some: a look at the density alone, without gradients."""
    if len(samples) == 0:
        return samples
    sigma = torch.cat([density(part)[:, 0] for part in samples.positions(rays).split(chunk)])
    _, transmittance, alpha = density_weights(sigma, samples.t_start, samples.t_end, samples.ray, len(rays.origins))
    return samples[visible(transmittance, alpha, min_transmittance=min_transmittance, min_alpha=min_alpha)]
