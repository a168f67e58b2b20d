"""Between pixels and space: rays, projection, unprojection.

Pixel (x, y) = (column, row). `offset` says where a pixel's centre stands: 0.5 (the usual), or 0 where an official
model counts from integers.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.types import Cameras, Rays


def pixel_grid(width: int, height: int, *, offset: float = 0.5, like: Tensor) -> Float[Tensor, "h w 2"]:
    """The pixel coordinates (x, y) of every pixel's centre."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device) + offset,
        torch.arange(width, dtype=like.dtype, device=like.device) + offset,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def unproject(
    pixels: Float[Tensor, "*batch n 2"], depth: Float[Tensor, "*batch n"], cameras: Cameras
) -> Float[Tensor, "*batch n 3"]:
    """World points at `depth` along the optical axis behind `pixels`, per camera."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    in_camera = homogeneous @ torch.linalg.inv(cameras.intrinsics).transpose(-1, -2) * depth[..., None]
    rotation, center = cameras.poses[..., :3, :3], cameras.poses[..., None, :3, 3]
    return in_camera @ rotation.transpose(-1, -2) + center


def project(
    points: Float[Tensor, "*batch n 3"], cameras: Cameras
) -> tuple[Float[Tensor, "*batch n 2"], Float[Tensor, "*batch n"]]:
    """Pixels and depths (along the optical axis, negative behind the camera) of world points, per camera."""
    rotation, center = cameras.poses[..., :3, :3], cameras.poses[..., None, :3, 3]
    in_camera = (points - center) @ rotation
    in_image = in_camera @ cameras.intrinsics.transpose(-1, -2)
    return in_image[..., :2] / in_image[..., 2:], in_camera[..., 2]


def pixel_rays(cameras: Cameras, *, offset: float = 0.5) -> Rays:
    """The rays [*B, H, W] through every pixel's centre."""
    pixels = pixel_grid(cameras.width, cameras.height, offset=offset, like=cameras.poses)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    to_world = cameras.poses[..., :3, :3] @ torch.linalg.inv(cameras.intrinsics)
    directions = F.normalize(torch.einsum("...ij,hwj->...hwi", to_world, homogeneous), dim=-1)
    return Rays(cameras.poses[..., None, None, :3, 3].expand_as(directions), directions)


def most_facing(
    points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], eyes: Float[Tensor, "v 3"]
) -> Float[Tensor, "n 3"]:
    """Unit directions to surface points from that eye which they face most; against the normal where they face none."""
    to_eyes = F.normalize(eyes - points[:, None], dim=-1)
    facing, eye = torch.einsum("nvk,nk->nv", to_eyes, normals).max(dim=1)
    chosen = torch.take_along_dim(to_eyes, eye[:, None, None], dim=1)[:, 0]
    return -torch.where(facing[:, None] > 0, chosen, normals)
