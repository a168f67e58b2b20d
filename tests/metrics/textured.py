"""Views of a sphere with a pattern on it: features that agree between views."""

import torch
import torch.nn.functional as F
import trimesh

from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.render.raster import render_mesh
from core.types import Mesh
from core.views import ViewSet


def textured_sphere(*, size: int = 128, num_views: int = 16, radius: float = 0.45, seed: int = 0) -> ViewSet:
    """Smooth random colours of space, seen on a sphere's surface, the same from every view; made without a renderer."""
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


def rendered_sphere(*, size: int = 256, seed: int = 0) -> ViewSet:
    """Such a sphere as a fine mesh, which our rasteriser draws with SyncDreamer's cameras."""
    ball = trimesh.creation.icosphere(subdivisions=6, radius=0.45)
    vertices = torch.tensor(ball.vertices).float()
    noise = torch.rand(1, 3, 32, 32, 32, generator=torch.Generator().manual_seed(seed))
    colors = F.grid_sample(noise, (vertices / 0.45).view(1, 1, 1, -1, 3), align_corners=True)[0, :, 0, 0].T
    cameras = rig("syncdreamer", size=size)
    images = render_mesh(Mesh(vertices, torch.tensor(ball.faces), colors), cameras, shading="none", cull_backfaces=True)
    return ViewSet(images, cameras, "sphere")
