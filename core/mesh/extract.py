"""From a scalar field to triangles: marching cubes (Lewiner et al. 2003, as in scikit-image) on a grid over a cube."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from skimage.measure import marching_cubes
from torch import Tensor

from core.errors import BadMesh
from core.types import Mesh


@torch.no_grad()
def sample_grid(
    field: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n"]],
    resolution: int,
    bound: float,
    *,
    device: torch.device | str = "cpu",
    chunk: int = 1 << 16,
) -> Float[Tensor, "r r r"]:
    """Values of `field` at `resolution`^3 points that include the corners of [-bound, bound]^3, indexed [x, y, z]."""
    axis = torch.linspace(-bound, bound, resolution, device=device)
    rows = max(1, chunk // resolution**2)
    slabs = []
    for start in range(0, resolution, rows):
        x = axis[start : start + rows]
        points = torch.stack(torch.meshgrid(x, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
        slabs.append(torch.cat([field(part) for part in points.split(chunk)]).cpu())
    return torch.cat(slabs).reshape(resolution, resolution, resolution)


def extract_surface(
    values: Float[Tensor, "r r r"], *, level: float, bound: float, inside_is_below: bool, what: str = "field"
) -> Mesh:
    """The surface where `values` cross `level`, in world units, closed where it meets the border, facing outward.

    Args:
        inside_is_below: True for signed distances, False for densities.
        what: names the field in the message of BadMesh, which is raised when nothing, or everything, is inside.
    """
    array = values.detach().cpu().float().numpy()
    if not np.isfinite(array).all():
        raise BadMesh(f"{what} has NaN or infinite values: the fit diverged; lower fit.lr or change the seed")
    low, high = float(array.min()), float(array.max())
    if not low < level < high:
        state = "full" if (high < level) == inside_is_below else "empty"
        raise BadMesh(
            f"surface is {state}: {what} lies in [{low:.4g}, {high:.4g}] and never crosses the threshold {level:.4g}; "
            "fit longer, change the threshold or check the masks and cameras"
        )
    outside = max(high, level + 1e-3) if inside_is_below else min(low, level - 1e-3)
    array = np.pad(array, 1, constant_values=outside)  # an object cut by the border gets a wall there
    direction = "descent" if inside_is_below else "ascent"
    vertices, faces, _, _ = marching_cubes(array, level=level, gradient_direction=direction)
    world = (vertices - 1) / (len(values) - 1) * (2 * bound) - bound
    return Mesh(torch.from_numpy(world.astype(np.float32)), torch.from_numpy(faces.astype(np.int64)))
