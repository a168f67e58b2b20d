"""How well the views of one object agree with each other, without knowing the truth: used to rank samples.

Two questions, asked of a common shape. The shape is the visual hull: the space that every view's silhouette covers.
(1) Silhouettes: seen from each camera, the hull must fill the view's silhouette; it never exceeds it, and it falls
short exactly where another view contradicts (silhouette coherence, Hernandez et al. 2007). (2) Colours: a point of
the hull's surface that two neighbouring views see must look the same in both. The score is the product.

Feature matching (SIFT, as COLMAP's point count in SyncDreamer's paper) was not chosen: at 64 x 64 pixels and on
plainly coloured objects it finds next to no features, and nothing can be ranked by zeros. The hull is blind to
concavities, which costs a true object some colour agreement, but costs every sample of one object about the same.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.cameras.rays import pixel_rays, project
from core.types import Cameras
from core.views import ViewSet

WORKING_SIZE = 64  # pixels; views are reduced to it, so the score compares across sizes and takes about a second
GRID = 64  # voxels along the hull's side: one is about as wide as a pixel
STEPS = 96  # samples along each ray


@dataclass(frozen=True)
class Consistency:
    """Scores in [0, 1], higher is better; `score` ranks."""

    score: float
    silhouettes: float
    colours: float


def consistency(views: ViewSet) -> Consistency:
    """`agreement` of a view set on white."""
    return agreement(views.rgb(), views.images[:, 3], views.cameras)


def agreement(rgb: Float[Tensor, "views 3 h w"], alpha: Float[Tensor, "views h w"], cameras: Cameras) -> Consistency:
    """The agreement of a ring of views; 0 when the silhouettes share no space at all.

    Neighbours are consecutive views, the last and the first included. Cameras must look at the origin's surroundings.

    Args:
        rgb: on one background already; nothing is laid over another here.
        alpha: of the object.
    """
    planes, cameras = reduced(torch.cat([rgb, alpha[:, None]], dim=1), cameras)
    rgb, alpha = planes[:, :3], planes[:, 3]
    half_extent = frame_of(cameras)
    hull = visual_hull(alpha, cameras, half_extent)
    fullness, depth = _render(hull, cameras, half_extent)
    both, either = torch.minimum(fullness, alpha).sum(dim=(1, 2)), torch.maximum(fullness, alpha).sum(dim=(1, 2))
    silhouettes = (both / either.clamp(min=1.0)).mean().item()
    colours = _colour_agreement(rgb, cameras, depth, voxel=2 * half_extent / GRID)
    return Consistency(silhouettes * colours, silhouettes, colours)


def visual_hull(
    alpha: Float[Tensor, "views h w"], cameras: Cameras, half_extent: float, grid: int = GRID
) -> Float[Tensor, "grid grid grid"]:
    """Occupancy in [0, 1] of voxels with axes (z, y, x): the least alpha that any view has at the voxel's centre."""
    axis = (torch.arange(grid, device=alpha.device) + 0.5) / grid * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = rearrange(torch.stack([x, y, z]), "c d h w -> (d h w) c") * half_extent
    occupancy = alpha.new_ones(grid**3)
    for view in range(len(cameras)):
        pixels, depth = project(points, cameras[view])
        seen = _sample(alpha[view, None], pixels)[0]
        occupancy = torch.minimum(occupancy, torch.where(depth > 0, seen, 0.0))
    return occupancy.view(grid, grid, grid)


def reduced(planes: Float[Tensor, "views c h w"], cameras: Cameras) -> tuple[Tensor, Cameras]:
    """Views averaged down to the working size, with their cameras; small ones as they are."""
    planes, cameras = planes.float(), cameras.to(torch.float32)
    ratio = WORKING_SIZE / max(cameras.height, cameras.width)
    if ratio >= 1:
        return planes, cameras
    height, width = max(1, round(cameras.height * ratio)), max(1, round(cameras.width * ratio))
    return F.interpolate(planes, (height, width), mode="area"), cameras.scaled(width, height)


def frame_of(cameras: Cameras) -> float:
    """Half the width of what the narrowest view sees at the origin's distance: the object is framed inside it."""
    half_width = cameras.width / (2 * cameras.intrinsics[:, 0, 0])
    return (cameras.centers.norm(dim=-1) * half_width).min().item()


def _sample(images: Float[Tensor, "c h w"], pixels: Float[Tensor, "n 2"]) -> Float[Tensor, "c n"]:
    """Bilinear values at pixel coordinates (centres at integer + 0.5); 0 outside."""
    size = pixels.new_tensor([images.shape[2], images.shape[1]])
    grid = (pixels / size * 2 - 1)[None, None]
    return F.grid_sample(images[None], grid, align_corners=False)[0, :, 0]


def _render(hull: Tensor, cameras: Cameras, half_extent: float) -> tuple[Tensor, Tensor]:
    """Each view's silhouette of the hull [V, H, W], and the depth where a ray first enters it (0: never)."""
    reach = math.sqrt(3) * half_extent
    fullness, depths = [], []
    for view in range(len(cameras)):
        rays = pixel_rays(cameras[view])
        middle = -(rays.origins * rays.directions).sum(dim=-1, keepdim=True)
        distances = middle + torch.linspace(-reach, reach, STEPS, device=hull.device)
        points = rays.origins[..., None, :] + distances[..., None] * rays.directions[..., None, :]
        occupancy = F.grid_sample(hull[None, None], (points / half_extent)[None], align_corners=False)[0, 0]
        fullness.append(occupancy.amax(dim=-1))
        inside = occupancy > 0.5
        first = inside.to(torch.uint8).argmax(dim=-1, keepdim=True)
        forward = (rays.directions * cameras.poses[view, :3, 2]).sum(dim=-1)
        depth = distances.gather(-1, first)[..., 0] * forward
        depths.append(torch.where(inside.any(dim=-1), depth, 0.0))
    return torch.stack(fullness), torch.stack(depths)


def _colour_agreement(rgb: Tensor, cameras: Cameras, depth: Tensor, voxel: float) -> float:
    """1 - the mean colour difference at hull points that a view and its successor both see, over both directions."""
    num_views = len(cameras)
    points = _surface(cameras, depth)
    differences = []
    for view in range(num_views):
        for other in ((view + 1) % num_views, (view - 1) % num_views):
            shown = depth[view].flatten() > 0
            pixels, distance = project(points[view][shown], cameras[other])
            # Bilinear depth is wrong across silhouettes, but those points then fail the test, as they should.
            visible = (_sample(depth[other, None], pixels)[0] - distance).abs() < 2 * voxel
            mine = rgb[view].flatten(1)[:, shown][:, visible]
            differences.append((mine - _sample(rgb[other], pixels[visible])).abs().mean(dim=0))
    all_differences = torch.cat(differences)
    return 1 - all_differences.mean().item() if len(all_differences) else 0.0


def _surface(cameras: Cameras, depth: Tensor) -> Tensor:
    """World points [V, H*W, 3] where each pixel's ray enters the hull."""
    rays = pixel_rays(cameras)
    forward = (rays.directions * cameras.poses[:, None, None, :3, 2]).sum(dim=-1)
    points = rays.origins + (depth / forward)[..., None] * rays.directions
    return rearrange(points, "v h w c -> v (h w) c")
