"""The density at which a scene's surface lies: the one whose outlines are those that the field shows.

The official automatic threshold, the mean of all density that is not zero, follows how much of the cube is haze; a mesh
made with it may be twice as large as what one sees. Opacity adds up along rays, so no one density is an object's border
by definition: the best is searched for.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import BadMesh
from core.mesh.clean import clean_mesh
from core.mesh.extract import extract_surface, sample_grid
from core.metrics.images import mask_iou
from core.render.raster import rasterize
from core.types import Cameras
from projects.mvdream_sds.scene.scene import Scene
from projects.mvdream_sds.scene.views import see

RESOLUTION, SIZE, NUM_VIEWS = 48, 64, 4  # of the search: points along an axis, pixels, views
LEAST, MOST = 1e-3, 0.9  # of the highest density
NUM_LEVELS, ROUNDS = 7, 2  # that are tried in each round, evenly in their logarithm


def seen_threshold(scene: Scene, cameras: Cameras, *, step: int = 0) -> float:
    """The density whose surface has the outlines of the field, as these cameras see it; BadMesh where it is empty."""
    chosen = cameras[:: max(1, len(cameras) // NUM_VIEWS)].scaled(SIZE, SIZE)
    masks = see(scene, chosen, step=step).rgba[:, 3] > 0.5
    if not masks.any():
        raise BadMesh("surface is empty: the field is nowhere half opaque; train longer, or give threshold= a number")
    radius = scene.geometry.radius
    device = next(scene.parameters()).device
    values = sample_grid(lambda points: scene.geometry.density(points)[:, 0], RESOLUTION, radius, device=device)
    if not torch.isfinite(values).all():
        raise BadMesh("density has NaN or infinite values: the training diverged; take an earlier checkpoint")
    highest = values.max().item()
    low, high = LEAST * highest, MOST * highest
    best = low
    for _ in range(ROUNDS):
        ratio = (high / low) ** (1 / (NUM_LEVELS - 1))
        levels = [low * ratio**number for number in range(NUM_LEVELS)]
        best = max(levels, key=lambda level: _overlap(values, level, radius, chosen, masks))
        low, high = best / ratio, min(best * ratio, highest * 0.999)
    return float(f"{best:.4g}")


def _overlap(
    values: Float[Tensor, "r r r"], level: float, radius: float, cameras: Cameras, masks: Bool[Tensor, "v h w"]
) -> float:
    """Mean IoU of the outlines of the surface at `level` with `masks`."""
    if not values.min().item() < level < values.max().item():
        return -math.inf
    mesh, _ = clean_mesh(extract_surface(values, level=level, bound=radius, inside_is_below=False, what="density"))
    seen = rasterize(mesh, cameras).mask
    return mask_iou(seen.float(), masks.float()).mean().item()
