"""Views of a sphere with a pattern on it, made without a renderer: features that agree between views."""

import torch
import torch.nn.functional as F

from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.views import ViewSet


def textured_sphere(*, size: int = 128, num_views: int = 16, radius: float = 0.45, seed: int = 0) -> ViewSet:
    """Smooth random colours of space, seen on a sphere's surface; the same texture at each point from every view."""
    cameras = rig("orbit", size=size, num_views=num_views, elevation_deg=20.0)
    rays = pixel_rays(cameras)
    middle = -(rays.origins * rays.directions).sum(-1, keepdim=True)
    inside = radius**2 - (rays.origins + rays.directions * middle).square().sum(-1, keepdim=True)
    points = rays.origins + rays.directions * (middle - inside.clamp(min=0).sqrt())
    noise = torch.rand(1, 3, 24, 24, 24, generator=torch.Generator().manual_seed(seed))
    grid = points.reshape(1, 1, 1, -1, 3) / radius
    colors = F.grid_sample(noise, grid, align_corners=True, padding_mode="border")[0, :, 0, 0]
    rgb = colors.view(3, num_views, size, size).transpose(0, 1)
    alpha = (inside > 0).float().permute(0, 3, 1, 2)
    return ViewSet(torch.cat([rgb * alpha, alpha], dim=1), cameras, "sphere")
