"""Cameras as models read them: polar differences (Zero-1-to-3), 16 numbers (MVDream), Pluecker rays (Ouroboros3D)."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import to_opengl
from core.cameras.rays import pixel_rays
from core.types import Cameras


def polar_embedding(
    polar_difference: Float[Tensor, "*batch"],
    azimuth_difference: Float[Tensor, "*batch"],
    distance_difference: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 4"]:
    """Target minus condition, as (d_polar, sin d_azimuth, cos d_azimuth, d_distance) (Liu et al. 2023, Zero-1-to-3).

    The polar angle is counted from +z, so a camera that is higher than the condition has a negative difference.
    """
    return torch.stack(
        [polar_difference, azimuth_difference.sin(), azimuth_difference.cos(), distance_difference], dim=-1
    )


def camera_matrix_embedding(poses: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 16"]:
    """Row-major OpenGL camera-to-world matrix with a unit translation (Shi et al. 2023, MVDream)."""
    poses = to_opengl(poses).clone()
    center = poses[..., :3, 3]
    poses[..., :3, 3] = center / (center.norm(dim=-1, keepdim=True) + 1e-8)
    return rearrange(poses, "... i j -> ... (i j)")


def pluecker_embedding(cameras: Cameras) -> Float[Tensor, "*batch 6 h w"]:
    """Each pixel's line as (moment o x d, unit direction d)."""
    rays = pixel_rays(cameras)
    moment = torch.linalg.cross(rays.origins, rays.directions)
    return rearrange(torch.cat([moment, rays.directions], dim=-1), "... h w c -> ... c h w")
