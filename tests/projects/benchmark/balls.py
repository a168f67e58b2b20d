"""Views of a ball of two colours, without a renderer."""

import torch

from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.views import ViewSet

RADIUS = 0.35


def ball_views(size: int = 24, name: str = "ball") -> ViewSet:
    """A ball, red above and blue below, seen by SyncDreamer's cameras."""
    cameras = rig("syncdreamer", size=size)
    rays = pixel_rays(cameras)
    middle = -(rays.origins * rays.directions).sum(-1, keepdim=True)
    closest = rays.origins + rays.directions * middle
    inside = RADIUS**2 - closest.square().sum(-1, keepdim=True)
    hit = closest - rays.directions * inside.clamp(min=0).sqrt()
    upper = (hit[..., 2:] > 0).float()
    rgba = torch.cat([upper, torch.zeros_like(upper), 1 - upper, (inside > 0).float()], dim=-1)
    return ViewSet(rgba.permute(0, 3, 1, 2).contiguous(), cameras, name)
