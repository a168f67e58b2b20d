"""Volume rendering of densities: quadrature along rays (Max 1995, Mildenhall et al. 2020), on packed samples.

Packed: the samples of all rays stand in one list; `ray_indices` (ascending) says whose each is; a ray may have none.
Sample i covers depths [t_starts_i, t_ends_i]; depth is distance along a unit direction. This is the plain reference.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.types import Rays


def ray_box(
    rays: Rays, bound: float, min_near: float = 0.0
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"], Bool[Tensor, "rays"]]:
    """Entry and exit depths of rays [R] through the cube [-bound, bound]^3, and which rays meet it."""
    return _through(rays, -bound, bound, min_near)


def ray_any_box(
    rays: Rays, box: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"], Bool[Tensor, "rays"]]:
    """The same for a box [low, high]."""
    return _through(rays, box[0], box[1], 0.0)


def _through(
    rays: Rays, low: float | Float[Tensor, "3"], high: float | Float[Tensor, "3"], min_near: float
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"], Bool[Tensor, "rays"]]:
    inverse = 1 / torch.where(rays.directions.abs() < 1e-12, 1e-12, rays.directions)
    first, second = (low - rays.origins) * inverse, (high - rays.origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp(min=min_near)
    far = torch.maximum(first, second).amin(-1)
    return near, far, far > near


def segment_exclusive_sum(
    values: Float[Tensor, "n"], ray_indices: Int[Tensor, "n"], num_rays: int
) -> Float[Tensor, "n"]:
    """For each sample the sum over the samples in front of it on the same ray.

    One running sum in float64, less its value at the ray's first sample: in float32 the difference would lose digits.
    """
    running = values.double().cumsum(0) - values.double()
    first = torch.searchsorted(ray_indices, torch.arange(num_rays, device=ray_indices.device))
    return (running - running[first[ray_indices]]).to(values.dtype)


def density_weights(
    sigma: Float[Tensor, "n"],
    t_starts: Float[Tensor, "n"],
    t_ends: Float[Tensor, "n"],
    ray_indices: Int[Tensor, "n"],
    num_rays: int,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Weight = transmittance * alpha of every sample, and the two factors."""
    optical_depth = sigma * (t_ends - t_starts)
    alpha = 1 - torch.exp(-optical_depth)
    transmittance = torch.exp(-segment_exclusive_sum(optical_depth, ray_indices, num_rays))
    return transmittance * alpha, transmittance, alpha


def accumulate(
    weights: Float[Tensor, "n"], values: Float[Tensor, "n channels"], ray_indices: Int[Tensor, "n"], num_rays: int
) -> Float[Tensor, "rays channels"]:
    """Weighted sum of sample values per ray; zero for rays without samples."""
    return values.new_zeros(num_rays, values.shape[-1]).index_add(0, ray_indices, weights[:, None] * values)


def composite(
    weights: Float[Tensor, "n"],
    rgb: Float[Tensor, "n 3"],
    t_starts: Float[Tensor, "n"],
    t_ends: Float[Tensor, "n"],
    ray_indices: Int[Tensor, "n"],
    num_rays: int,
) -> dict[str, Float[Tensor, "rays channels"]]:
    """`rgb` (premultiplied: over black), `opacity`, `depth` (not divided by opacity), `depth_variance` of each ray."""
    middle = ((t_starts + t_ends) * 0.5)[:, None]
    depth = accumulate(weights, middle, ray_indices, num_rays)
    return {
        "rgb": accumulate(weights, rgb, ray_indices, num_rays),
        "opacity": accumulate(weights, torch.ones_like(middle), ray_indices, num_rays),
        "depth": depth,
        "depth_variance": accumulate(weights, (middle - depth[ray_indices]).square(), ray_indices, num_rays),
    }


def visible(
    transmittance: Float[Tensor, "n"],
    alpha: Float[Tensor, "n"],
    *,
    min_transmittance: float = 1e-4,
    min_alpha: float = 0.0,
) -> Bool[Tensor, "n"]:
    """Samples worth shading: light still arrives there, and they are not transparent."""
    return (transmittance >= min_transmittance) & (alpha >= min_alpha)
