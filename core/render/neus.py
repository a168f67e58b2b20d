"""NeuS: volume rendering of a signed distance (Wang et al. 2021), sampled and trained as SyncDreamer does.

The object lies in the cube |x|, |y|, |z| <= bound; outside of it nothing is evaluated and nothing is opaque. Depths
`z` are distances along unit rays. The background is white.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.cameras.rays import most_facing
from core.config import number, whole
from core.errors import BadConfig
from core.fields.sdf import SDFNetwork, SurfaceColor
from core.mesh.extract import extract_surface, sample_grid
from core.render.volume import ray_box
from core.types import Mesh, Rays

EPSILON = 1e-5  # keeps NeuS's ratios of sigmoids finite, and its histograms non-zero


@dataclass(frozen=True)
class NeusRender:
    """What a bundle of rays saw."""

    rgb: Float[Tensor, "rays 3"]
    mask: Float[Tensor, "rays 1"]  # sum of weights, in [0, 1]
    normal: Float[Tensor, "rays 3"]  # weighted sum of unit normals, world axes
    depth: Float[Tensor, "rays 1"]
    inside: Bool[Tensor, "rays samples"]  # which samples lay in the cube
    gradient_error: Float[Tensor, "rays samples"]  # (|gradient| - 1)^2, zero outside the cube


def near_far(rays: Rays, radius: float = math.sqrt(3) / 2) -> tuple[Float[Tensor, "*b 1"], Float[Tensor, "*b 1"]]:
    """Depth interval of `radius` on both sides of a ray's closest approach to the origin."""
    closest = -(rays.origins * rays.directions).sum(-1, keepdim=True)
    return closest - radius, closest + radius


def sample_histogram(
    edges: Float[Tensor, "rays edges"], weights: Float[Tensor, "rays bins"], num_samples: int
) -> Float[Tensor, "rays num_samples"]:
    """Equally spaced quantiles of a piecewise constant density (inverse transform sampling without randomness)."""
    density = (weights + EPSILON) / (weights + EPSILON).sum(-1, keepdim=True)
    cumulative = torch.cat([torch.zeros_like(density[:, :1]), density.cumsum(-1)], dim=-1)
    quantiles = torch.linspace(0.5 / num_samples, 1 - 0.5 / num_samples, num_samples, device=edges.device)
    quantiles = repeat(quantiles, "n -> r n", r=edges.shape[0]).contiguous()
    above = torch.searchsorted(cumulative, quantiles, right=True)
    below, above = (above - 1).clamp(min=0), above.clamp(max=cumulative.shape[-1] - 1)
    cumulative_below, cumulative_above = cumulative.gather(-1, below), cumulative.gather(-1, above)
    span = cumulative_above - cumulative_below
    fraction = (quantiles - cumulative_below) / torch.where(span < EPSILON, torch.ones_like(span), span)
    edges_below, edges_above = edges.gather(-1, below), edges.gather(-1, above)
    return edges_below + fraction * (edges_above - edges_below)


def section_alpha(
    distance: Float[Tensor, "*b"], slope: Float[Tensor, "*b"], length: Float[Tensor, "*b"], inv_s: Tensor | float
) -> Float[Tensor, "*b"]:
    """Opacity of a section whose middle has this signed distance and this slope along the ray (NeuS eq. 13)."""
    start = torch.sigmoid((distance - slope * length * 0.5) * inv_s)
    end = torch.sigmoid((distance + slope * length * 0.5) * inv_s)
    return (start - end + EPSILON) / (start + EPSILON)


def alpha_weights(alpha: Float[Tensor, "rays samples"]) -> Float[Tensor, "rays samples"]:
    """Opacity times the transmittance of everything in front."""
    passed = torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-7], dim=-1).cumprod(-1)
    return alpha * passed[:, :-1]


class NeuS(nn.Module):
    """A surface with colour that renders itself."""

    def __init__(
        self,
        *,
        sdf: SDFNetwork,
        color: SurfaceColor,
        variance: float = 0.3,
        bound: float = 0.6,
        num_coarse: int = 64,
        num_fine: int = 64,
        num_rounds: int = 4,
        span: Literal["sphere", "cube"] = "sphere",
        anneal_steps: int = 200,
        rgb_weight: float = 0.5,
        mask_weight: float = 1.0,
        eikonal_weight: float = 0.1,
    ) -> None:
        """
        Args:
            variance: v0 in the sharpness s = exp(10 v) of the surface.
            num_coarse: evenly spaced samples; num_fine more follow in num_rounds rounds of importance sampling.
            span: of the coarse samples: the official interval around the closest approach to the origin, or the ray's
                part inside the cube, which fewer samples cover as well.
            anneal_steps: training steps until the true slope along the ray replaces the halved one of the start.
        """
        super().__init__()
        whole("num_coarse", num_coarse, least=2)  # a section lies between two samples
        for key, count in {"num_fine": num_fine, "num_rounds": num_rounds, "anneal_steps": anneal_steps}.items():
            whole(key, count)
        if num_fine % num_rounds:
            raise BadConfig(f"num_fine={num_fine} must be a multiple of num_rounds={num_rounds}")
        number("bound", bound, 0, above=True)
        number("variance", variance)
        weights = {"rgb_weight": rgb_weight, "mask_weight": mask_weight, "eikonal_weight": eikonal_weight}
        for key, weight in weights.items():
            number(key, weight, 0)
        self.sdf, self.color = sdf, color
        self.variance = nn.Parameter(torch.tensor(variance))
        self.bound, self.num_coarse, self.num_fine, self.num_rounds = bound, num_coarse, num_fine, num_rounds
        self.span, self.anneal_steps = span, anneal_steps
        self.rgb_weight, self.mask_weight, self.eikonal_weight = rgb_weight, mask_weight, eikonal_weight

    @property
    def inv_s(self) -> Float[Tensor, ""]:
        return torch.exp(self.variance * 10.0).clamp(1e-6, 1e6)

    def inside(self, points: Float[Tensor, "*b 3"]) -> Bool[Tensor, "*b"]:
        return (points.abs() <= self.bound).all(-1)

    @torch.no_grad()
    def sample(self, rays: Rays, jitter: Float[Tensor, "rays 1"] | None = None) -> Float[Tensor, "rays samples"]:
        """Depths of the sections' starts: even ones, then more where the surface seems to be.

        Args:
            jitter: uniform in [0, 1), one shift per ray by up to a step of the coarse grid (training only).
        """
        near, far = near_far(rays) if self.span == "sphere" else self._cube(rays)
        z = near + (far - near) * torch.linspace(0, 1, self.num_coarse, device=near.device)
        if jitter is not None:
            z = z + (jitter - 0.5) * 2.0 / self.num_coarse * (1.0 if self.span == "sphere" else (far - near) / 2)
        distance = self.sdf(self._points(rays, z))[0][..., 0]
        per_round = self.num_fine // self.num_rounds
        for i in range(self.num_rounds):
            new = self._refine(rays, z, distance, per_round, inv_s=64.0 * 2**i)
            z, order = torch.sort(torch.cat([z, new], dim=-1), dim=-1)
            if i + 1 < self.num_rounds:
                new_distance = self.sdf(self._points(rays, new))[0][..., 0]
                distance = torch.cat([distance, new_distance], dim=-1).gather(-1, order)
        return z

    def _cube(self, rays: Rays) -> tuple[Float[Tensor, "rays 1"], Float[Tensor, "rays 1"]]:
        near, far, hit = ray_box(rays, self.bound)
        return near[:, None], torch.where(hit, far, near + 1e-3)[:, None]  # a ray that misses has no sample inside

    def _refine(self, rays: Rays, z: Tensor, distance: Tensor, num_samples: int, inv_s: float) -> Tensor:
        inside = self.inside(self._points(rays, z))
        inside = inside[:, :-1] | inside[:, 1:]
        length = z[:, 1:] - z[:, :-1]
        middle = (distance[:, 1:] + distance[:, :-1]) * 0.5
        slope = (distance[:, 1:] - distance[:, :-1]) / (length + EPSILON)
        previous = torch.cat([torch.zeros_like(slope[:, :1]), slope[:, :-1]], dim=-1)
        slope = torch.minimum(slope, previous).clamp(-1e3, 0.0) * inside  # the steeper one: robust behind thin parts
        weights = alpha_weights(section_alpha(middle, slope, length, inv_s))
        return sample_histogram(z, weights, num_samples)

    @staticmethod
    def _points(rays: Rays, z: Float[Tensor, "rays samples"]) -> Float[Tensor, "rays samples 3"]:
        return rays.origins[:, None] + rays.directions[:, None] * z[..., None]

    def render(
        self, rays: Rays, *, step: int | None = None, jitter: Float[Tensor, "rays 1"] | None = None
    ) -> NeusRender:
        """Render rays [R]; `step` is the training step (None: fully annealed)."""
        return self.shade(rays, self.sample(rays, jitter), step=step)

    def shade(self, rays: Rays, z: Float[Tensor, "rays samples"], *, step: int | None = None) -> NeusRender:
        """Composite the sections that start at depths `z`."""
        length = torch.cat([z[:, 1:] - z[:, :-1], (z[:, 1:] - z[:, :-1])[:, -1:]], dim=-1)
        middle = z + length * 0.5
        points = self._points(rays, middle)
        inside = self.inside(points)
        directions = rays.directions[:, None].expand_as(points)[inside]
        distance, features, gradient = self.sdf.with_gradient(points[inside])
        color = self.color(points[inside], gradient, -directions, features)
        slope = self._annealed((directions * gradient).sum(-1), step)
        opacity = section_alpha(distance[:, 0], slope, length[inside], self.inv_s).clamp(0.0, 1.0)

        def scatter(values: Tensor) -> Tensor:
            return values.new_zeros(*inside.shape, *values.shape[1:]).index_put((inside,), values)

        weights = alpha_weights(scatter(opacity))
        mask = weights.sum(-1, keepdim=True)
        rgb = (weights[..., None] * scatter(color)).sum(1) + (1 - mask)
        normal = (weights[..., None] * scatter(nn.functional.normalize(gradient, dim=-1))).sum(1)
        error = scatter((gradient.norm(dim=-1) - 1) ** 2)
        return NeusRender(rgb, mask, normal, (weights * middle).sum(-1, keepdim=True), inside, error)

    def _annealed(self, slope: Float[Tensor, "*b"], step: int | None) -> Float[Tensor, "*b"]:
        ratio = 1.0 if step is None else min(1.0, step / self.anneal_steps)
        return -(torch.relu(-slope * 0.5 + 0.5) * (1.0 - ratio) + torch.relu(-slope) * ratio)

    def losses(
        self,
        rays: Rays,
        rgb: Float[Tensor, "rays 3"],
        mask: Float[Tensor, "rays 1"],
        *,
        step: int,
        jitter: Float[Tensor, "rays 1"],
    ) -> dict[str, Float[Tensor, ""]]:
        """SyncDreamer's losses: soft L1 of colour, squared error of the mask, eikonal over the samples in the cube."""
        render = self.render(rays, step=step, jitter=jitter)
        inside = render.inside.to(rgb.dtype)
        terms = {
            "rgb": soft_l1(render.rgb, rgb),
            "mask": (render.mask - mask).square().mean(),
            "eikonal": (render.gradient_error * inside).sum() / (inside + EPSILON).sum(),
        }
        loss = self.rgb_weight * terms["rgb"] + self.mask_weight * terms["mask"]
        return {"loss": loss + self.eikonal_weight * terms["eikonal"], **terms}

    def before_step(self, step: int, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    @torch.no_grad()
    def look(self, rays: Rays) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 1"]]:
        """Colour over white, and opacity."""
        render = self.render(rays)
        return render.rgb, render.mask

    @torch.no_grad()
    def surface_color(
        self, points: Float[Tensor, "n 3"], eyes: Float[Tensor, "v 3"], *, chunk: int = 1 << 15
    ) -> Float[Tensor, "n 3"]:
        """Colour of surface points, each seen from that eye which it faces most: other directions were never fitted.

        Args:
            eyes: where the cameras of the fitted views stand.
        """
        return torch.cat([self._seen(part, eyes) for part in points.split(chunk)])

    def _seen(self, points: Float[Tensor, "n 3"], eyes: Float[Tensor, "v 3"]) -> Float[Tensor, "n 3"]:
        _, features, gradient = self.sdf.with_gradient(points)
        directions = most_facing(points, nn.functional.normalize(gradient, dim=-1), eyes)
        return self.color(points, gradient, -directions, features)

    def surface(self, resolution: int = 512, *, eyes: Float[Tensor, "v 3"], chunk: int = 1 << 16) -> Mesh:
        """The zero level set on a grid of `resolution` points per axis, with the colours that `eyes` see."""
        device = self.variance.device

        def distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
            values = self.sdf(points)[0][:, 0]
            return torch.where(points.norm(dim=-1) >= 1, torch.ones_like(values), values)

        values = sample_grid(distance, resolution, self.bound, device=device, chunk=chunk)
        mesh = extract_surface(values, level=0.0, bound=self.bound, inside_is_below=True, what="signed distance")
        return replace(mesh, colors=self.surface_color(mesh.vertices.to(device), eyes.to(device)).cpu())


def soft_l1(prediction: Float[Tensor, "n c"], target: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Mean over rays of sqrt(|difference|^2 + 0.001)."""
    return ((prediction - target).square().sum(-1) + 0.001).sqrt().mean()
