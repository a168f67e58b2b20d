"""Volume rendering of an instant-ngp field with an occupancy grid, sampled and trained as SyncDreamer does.

The official marcher steps through occupied cells on a GPU; here every section of a regular lattice inside the cube is a
candidate, and those in empty cells are left out before the network sees them. The background is white.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.cameras.rays import most_facing
from core.config import number, whole
from core.fields.radiance import NGPField
from core.mesh.extract import extract_surface, sample_grid
from core.render.neus import soft_l1
from core.render.occupancy import OccupancyGrid
from core.render.volume import composite, density_weights, ray_box
from core.types import Mesh, Rays

# The ray that colours a surface point begins so far in front of it (beyond the fog, before other parts) and ends so far
# behind it, where the surface has become opaque.
OUTSIDE, INSIDE = 0.05, 0.15


class NGP(nn.Module):
    """A radiance field that renders itself."""

    def __init__(
        self,
        *,
        field: NGPField,
        max_steps: int = 1024,
        grid_resolution: int = 128,
        grid_every: int = 16,
        grid_warmup: int = 256,
        min_near: float = 0.2,
        perturb: bool = False,
        rgb_weight: float = 0.5,
        mask_weight: float = 10.0,
        density_threshold: float = 10.0,
    ) -> None:
        """
        Args:
            max_steps: sections that a ray of length 2 sqrt(3) would have; their length is the same for all rays.
            grid_resolution: cells of the occupancy grid per axis, updated every `grid_every` steps: all cells before
                step `grid_warmup`, then half of them.
            min_near: nothing closer to the camera is seen.
            perturb: shift each ray's lattice by a random part of a section in training.
            density_threshold: where the extracted surface lies; ours, the official program extracts none.
        """
        super().__init__()
        counts = {"max_steps": max_steps, "grid_resolution": grid_resolution, "grid_every": grid_every}
        for key, count in counts.items():
            whole(key, count)
        whole("grid_warmup", grid_warmup, least=0)
        for key, value in {"min_near": min_near, "rgb_weight": rgb_weight, "mask_weight": mask_weight}.items():
            number(key, value, 0)
        number("density_threshold", density_threshold, 0, above=True)
        self.field = field
        self.grid = OccupancyGrid(bound=field.bound, resolution=grid_resolution)
        self.section = 2 * math.sqrt(3) / max_steps
        self.grid_every, self.grid_warmup = grid_every, grid_warmup
        self.min_near, self.perturb = min_near, perturb
        self.rgb_weight, self.mask_weight, self.density_threshold = rgb_weight, mask_weight, density_threshold

    def before_step(self, step: int, generator: torch.Generator) -> None:
        """Refresh the occupancy grid now and then."""
        if step % self.grid_every == 0:
            self.grid.update(self._density, generator, everywhere=step < self.grid_warmup)

    def _density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        return self.field.density(points)[0]

    def render(
        self, rays: Rays, jitter: Float[Tensor, "rays 1"] | None = None, *, reach: float = math.inf
    ) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 1"]]:
        """Colour over white, and opacity; nothing farther than `reach` from the rays' origins is seen."""
        near, far, hit = ray_box(rays, self.field.bound, self.min_near)
        far = far.clamp(max=reach)
        longest = min(2 * math.sqrt(3) * self.field.bound, reach - self.min_near)
        num_sections = math.ceil(longest / self.section)
        starts = near[:, None] + self.section * torch.arange(num_sections, device=near.device)
        if jitter is not None:
            starts = starts + (jitter - 1) * self.section
        middle = starts + self.section / 2
        points = rays.origins[:, None] + rays.directions[:, None] * middle[..., None]
        wanted = hit[:, None] & (middle > near[:, None]) & (middle < far[:, None]) & self.grid(points)
        ray, sample = wanted.nonzero(as_tuple=True)
        sigma, features = self.field.density(points[ray, sample])
        rgb = self.field.color(rays.directions[ray], features)
        t_starts, count = starts[ray, sample], len(rays.origins)
        weights, _, _ = density_weights(sigma, t_starts, t_starts + self.section, ray, count)
        out = composite(weights, rgb, t_starts, t_starts + self.section, ray, count)
        return out["rgb"] + (1 - out["opacity"]), out["opacity"]

    def losses(
        self,
        rays: Rays,
        rgb: Float[Tensor, "rays 3"],
        mask: Float[Tensor, "rays 1"],
        *,
        step: int,
        jitter: Float[Tensor, "rays 1"],
    ) -> dict[str, Float[Tensor, ""]]:
        """SyncDreamer's losses: soft L1 of colour, squared error of the mask."""
        color, opacity = self.render(rays, jitter if self.perturb else None)
        terms = {"rgb": soft_l1(color, rgb), "mask": (opacity - mask).square().mean()}
        return {"loss": self.rgb_weight * terms["rgb"] + self.mask_weight * terms["mask"], **terms}

    @torch.no_grad()
    def look(self, rays: Rays) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 1"]]:
        """Colour over white, and opacity."""
        return self.render(rays)

    def surface(self, resolution: int = 512, *, eyes: Float[Tensor, "v 3"], chunk: int = 1 << 16) -> Mesh:
        """The surface of density `density_threshold`, with the colours that `eyes` see (`surface_color`)."""
        device = self.grid.values.device
        values = sample_grid(self._density, resolution, self.field.bound, device=device, chunk=chunk)
        mesh = extract_surface(
            values, level=self.density_threshold, bound=self.field.bound, inside_is_below=False, what="density"
        )
        return replace(mesh, colors=self.surface_color(mesh.vertices.to(device), eyes.to(device)).cpu())

    def surface_color(
        self, points: Float[Tensor, "n 3"], eyes: Float[Tensor, "v 3"], *, chunk: int = 1 << 12
    ) -> Float[Tensor, "n 3"]:
        """Colour of surface points, each seen from that eye which it faces most.

        No loss constrains the colour at a point, nor that in a direction from which no view looked; only what rays of
        the views composite to is known. So each point is rendered, by a ray from just outside, as a view saw it.

        Args:
            eyes: where the cameras of the fitted views stand.
        """
        return torch.cat([self._seen(part, eyes) for part in points.split(chunk)])

    def _seen(self, points: Float[Tensor, "n 3"], eyes: Float[Tensor, "v 3"]) -> Float[Tensor, "n 3"]:
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            (inward,) = torch.autograd.grad(self._density(points).sum(), points)
        points = points.detach()
        directions = most_facing(points, nn.functional.normalize(-inward, dim=-1), eyes)
        start = self.min_near + OUTSIDE
        with torch.no_grad():
            color, opacity = self.render(Rays(points - directions * start, directions), reach=start + INSIDE)
        return ((color - (1 - opacity)) / opacity.clamp(min=1e-4)).clamp(0, 1)
