"""Where the voxels of SyncDreamer's spatial volume fall in each view, and where each frustum's samples lie in space.

Tensor axes of a volume are (z, y, x): vertex (i, j, k) stands at world (x, y, z) = (g_k, g_j, g_i), g from -L to L.
Quirk: the principal point is half the map's side while sampling counts pixel centres from integers
(`align_corners=True`): half a pixel of offset that the published weights were trained with. Rays are cast with
`offset=0` for the same reason.
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from core.cameras.rays import pixel_grid, unproject
from core.types import Cameras

MIN_DEPTH = 1e-4


def voxel_vertices(resolution: int, half_extent: float, *, like: Tensor) -> Float[Tensor, "z y x 3"]:
    """World positions of the volume's vertices."""
    axis = torch.linspace(-half_extent, half_extent, resolution, dtype=like.dtype, device=like.device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def warp_coordinates(
    points: Float[Tensor, "*grid 3"], cameras: Cameras, map_size: int
) -> Float[Tensor, "views *grid 2"]:
    """Sampling coordinates in [-1, 1] of world points in each view's square map of `map_size` pixels."""
    flat = points.reshape(1, -1, 3).expand(len(cameras), -1, -1)
    small = cameras.scaled(map_size, map_size)
    in_camera = (flat - small.poses[:, None, :3, 3]) @ small.poses[:, :3, :3]
    in_image = in_camera @ small.intrinsics.transpose(-1, -2)
    pixels = in_image[..., :2] / in_image[..., 2:].clamp(min=MIN_DEPTH)
    return (pixels / ((map_size - 1) / 2) - 1).reshape(len(cameras), *points.shape[:-1], 2)


def depth_range(cameras: Cameras, radius: float) -> tuple[Float[Tensor, "views"], Float[Tensor, "views"]]:
    """Nearest and farthest depth of a sphere of that radius around the origin."""
    distance = cameras.centers.norm(dim=-1)
    return distance - radius, distance + radius


def frustum_points(
    cameras: Cameras,
    map_size: int,
    num_depths: int,
    near: Float[Tensor, "views"] | float,
    far: Float[Tensor, "views"] | float,
) -> tuple[Float[Tensor, "views d h w 3"], Float[Tensor, "views d"]]:
    """World points of each view's frustum: a square map times evenly spaced depths; also returns the depths."""
    num_views = len(cameras)
    small = cameras.scaled(map_size, map_size)
    near, far = (torch.as_tensor(bound).to(small.poses).expand(num_views)[:, None] for bound in (near, far))
    steps = torch.linspace(0, 1, num_depths, dtype=small.poses.dtype, device=small.poses.device)
    depths = near + steps * (far - near)
    pixels = pixel_grid(map_size, map_size, offset=0.0, like=small.poses)
    pixels = repeat(pixels, "h w c -> v (d h w) c", v=num_views, d=num_depths)
    points = unproject(pixels, repeat(depths, "v d -> v (d h w)", h=map_size, w=map_size), small)
    return rearrange(points, "v (d h w) c -> v d h w c", d=num_depths, h=map_size), depths
