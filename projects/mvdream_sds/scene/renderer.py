"""Volume rendering of a scene (threestudio's nerf-volume-renderer, on nerfacc's sampling rules).

Rays come as pictures [views, height, width]. Depth is distance from the camera along a ray, weighted and not divided
by the opacity; so is its variance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.config import whole
from core.render.volume import accumulate, composite, density_weights
from core.types import Rays
from projects.mvdream_sds.scene.background import Background
from projects.mvdream_sds.scene.draws import Draws
from projects.mvdream_sds.scene.geometry import ImplicitVolume
from projects.mvdream_sds.scene.marching import Samples, occupied_samples, visible_samples
from projects.mvdream_sds.scene.materials import Material, Shading
from projects.mvdream_sds.scene.networks import safe_normalize
from projects.mvdream_sds.scene.occupancy import SceneOccupancy
from projects.mvdream_sds.scene.recompute import in_parts, recomputed

Picture = Float[Tensor, "views height width 3"]
Plane = Float[Tensor, "views height width 1"]


@dataclass(frozen=True)
class Shaded:
    """What the samples of a picture's rays contributed; packed, see `marching.Samples`."""

    ray: Int[Tensor, "n"]
    weights: Float[Tensor, "n 1"]
    directions: Float[Tensor, "n 3"]
    normal: Float[Tensor, "n 3"] | None


@dataclass(frozen=True)
class Rendered:
    """Pictures of all views. `normal` is (n + 1) / 2 times the opacity, as normals are shown."""

    rgb: Picture
    foreground: Picture
    background: Picture
    opacity: Plane
    depth: Plane
    z_variance: Plane
    normal: Picture | None
    samples: Shaded

    @property
    def samples_per_ray(self) -> float:
        """Shaded ones, on average."""
        return len(self.samples.ray) / max(1, self.opacity.numel())


class VolumeRenderer(nn.Module):
    """Marches rays through the occupied cells, shades what is visible, composites it over the background."""

    def __init__(
        self,
        *,
        occupancy: SceneOccupancy,
        num_samples_per_ray: int = 512,
        grid_prune: bool = True,
        prune_alpha_threshold: bool = True,
        randomized: bool = True,
        recompute: bool = False,
        chunk: int = 160000,
    ) -> None:
        """
        Args:
            num_samples_per_ray: sections of a ray along the cube's diagonal; all sections have that length.
            grid_prune: leave out empty cells; false looks at every section inside the cube.
            prune_alpha_threshold: leave out, too, what is transparent or hidden, by a look at the density alone.
            randomized: training shifts each ray's lattice by a random part of a section.
            recompute: keep no activations of the field for the backward pass; see `scene.recompute`.
            chunk: points that pass through the field at once, where nothing is kept for a backward pass.
        """
        super().__init__()
        whole("num_samples_per_ray", num_samples_per_ray)
        whole("chunk", chunk)
        self.occupancy = occupancy
        # Quirk: 1.732, not sqrt(3).
        self.step = 1.732 * 2 * occupancy.bound / num_samples_per_ray
        self.grid_prune, self.prune_alpha_threshold = grid_prune, prune_alpha_threshold
        self.randomized, self.recompute, self.chunk = randomized, recompute, chunk

    def update_step(self, step: int, geometry: ImplicitVolume, generator: torch.Generator) -> None:
        """Look again at what is occupied, where training step `step` begins with that."""
        occupancy = self.occupancy
        if self.grid_prune and occupancy.is_due(step):
            occupancy.update(
                lambda points: geometry.density(points)[:, 0] * self.step,
                generator,
                everywhere=step < occupancy.warmup,
                chunk=self.chunk,
            )

    def sample(self, rays: Rays, geometry: ImplicitVolume, jitter: Float[Tensor, "rays"] | None = None) -> Samples:
        """The sections of rays [R] that are shaded."""
        samples = occupied_samples(rays, self.occupancy, self.step, jitter, skip=self.grid_prune)
        if not (self.grid_prune and self.prune_alpha_threshold):
            return samples
        min_alpha = min(0.01, self.occupancy.values.mean().item())
        return visible_samples(samples, geometry.density, rays, min_alpha=min_alpha, chunk=self.chunk)

    def forward(
        self,
        rays: Rays,
        *,
        geometry: ImplicitVolume,
        material: Material,
        background: Background,
        light_positions: Float[Tensor, "views 3"] | None = None,
        shading: Shading | None = None,
        step: int = 0,
        draws: Draws | None = None,
        normals: bool | None = None,
    ) -> Rendered:
        """Pictures of rays [views, height, width].

        Args:
            light_positions: of each view's point light; only a material with light needs them.
            shading: instead of what the material chooses for `step`.
            draws: where training's random numbers come from.
            normals: whether to find normals; None: if the material needs them.

        Raises:
            ValueError: a material that needs normals or lights, without them.
        """
        shape = rays.origins.shape[:-1]
        flat = Rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
        jitter = None
        if self.training and self.randomized:
            if draws is None:
                raise ValueError("training with randomized=true needs draws")
            jitter = draws.uniform(len(flat.origins)).to(flat.origins)
        samples = self.sample(flat, geometry, jitter)
        shading = material.choose(step, draws) if shading is None else shading
        with_normal = material.needs_normal if normals is None else normals
        if material.needs_normal and (light_positions is None or not with_normal):
            raise ValueError("a material with a point light needs light_positions and normals")
        density, rgb, normal = self._field(
            samples, flat, shape, geometry, material, light_positions, shading, with_normal
        )
        count = len(flat.origins)
        weights, _, _ = density_weights(density[:, 0], samples.t_start, samples.t_end, samples.ray, count)
        out = composite(weights, rgb, samples.t_start, samples.t_end, samples.ray, count)
        pictures = {name: values.reshape(*shape, -1) for name, values in out.items()}
        behind = background(rays.directions, draws)
        shown = None
        if normal is not None:
            mean = safe_normalize(accumulate(weights, normal, samples.ray, count)).reshape(*shape, 3)
            shown = (mean + 1) / 2 * pictures["opacity"]
        return Rendered(
            rgb=pictures["rgb"] + behind * (1 - pictures["opacity"]),
            foreground=pictures["rgb"],
            background=behind,
            opacity=pictures["opacity"],
            depth=pictures["depth"],
            z_variance=pictures["depth_variance"],
            normal=shown,
            samples=Shaded(samples.ray, weights[:, None], flat.directions[samples.ray], normal),
        )

    def _field(
        self,
        samples: Samples,
        rays: Rays,
        shape: tuple[int, ...],
        geometry: ImplicitVolume,
        material: Material,
        light_positions: Float[Tensor, "views 3"] | None,
        shading: Shading | None,
        with_normal: bool,
    ) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 3"], Float[Tensor, "n 3"] | None]:
        """Density, colour and normal at the samples."""
        inputs = [samples.positions(rays)]
        if light_positions is not None:
            inputs.append(light_positions.to(rays.origins)[samples.ray // math.prod(shape[1:])])

        def look(points: Tensor, light: Tensor | None = None) -> tuple[Tensor, ...]:
            matter = geometry(points, normals=with_normal)
            rgb = material(matter.features, points, matter.normal, light, shading)
            return (matter.density, rgb, *(() if matter.normal is None else (matter.normal,)))

        run: Callable[..., tuple[Tensor, ...]] = look
        if len(samples) and not torch.is_grad_enabled():
            outputs = in_parts(run, inputs, chunk=self.chunk)
        elif len(samples) and self.recompute:
            parameters = [*geometry.parameters(), *material.parameters()]
            outputs = recomputed(run, inputs, parameters, chunk=self.chunk)
        else:
            outputs = run(*inputs)
        density, rgb, *normal = outputs
        return density, rgb, normal[0] if normal else None
