"""Scores of shapes against the truth: Chamfer distance between point sets and the overlap of volumes.

Distances are in world units (the object inside the unit sphere) and not squared. Nothing is aligned or rescaled here.
"""

import numpy as np
import torch
import trimesh
from einops import rearrange
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from core.cameras.rays import pixel_grid, project, unproject
from core.errors import BadMesh
from core.render.raster import rasterize
from core.types import Cameras, Mesh


def chamfer(points_a: Float[Tensor, "n 3"], points_b: Float[Tensor, "m 3"]) -> float:
    """Half the sum of the mean distances to the nearest point, both ways; BadMesh for an empty or broken point set."""
    a, b = _points(points_a, "first"), _points(points_b, "second")
    return 0.5 * (cKDTree(b).query(a)[0].mean() + cKDTree(a).query(b)[0].mean())


def sample_surface(mesh: Mesh, num_points: int, *, seed: int) -> Float[Tensor, "num_points 3"]:
    """Points spread over the surface evenly by area; the same for the same seed."""
    surface = _trimesh(mesh)
    if not surface.area > 0:
        raise BadMesh("cannot sample a mesh whose area is 0")
    points, _ = trimesh.sample.sample_surface(surface, num_points, seed=seed)
    return torch.from_numpy(np.asarray(points)).float()


def screen_affine_depth(mesh: Mesh, cameras: Cameras) -> Float[Tensor, "views h w"]:
    """Depth maps of a mesh (0 = nothing there) as SyncDreamer's evaluation draws them."""
    # Quirk: it interpolates depth linearly on the screen, not in space, which bends triangles that are large. With
    # perspective-correct barycentrics b and vertex depths z that is sum(b z^2) / sum(b z).
    seen = rasterize(mesh, cameras)
    vertex_depths = project(mesh.vertices.expand(len(cameras), -1, -1), cameras)[1]
    view = seen.mask.nonzero()[:, :1]
    z = vertex_depths[view, mesh.faces[seen.face_index[seen.mask]]]
    weights = seen.barycentrics[seen.mask] * z
    depth = torch.zeros_like(seen.depth)
    depth[seen.mask] = (weights * z).sum(dim=-1) / weights.sum(dim=-1)
    return depth


def visible_points(depth: Float[Tensor, "views h w"], cameras: Cameras) -> Float[Tensor, "n 3"]:
    """World points of depth maps (0 = nothing there), as SyncDreamer's evaluation gathers them: all views together."""
    # Quirk: pixels are unprojected from integer coordinates although the depth was sampled at their centres.
    pixels = pixel_grid(cameras.width, cameras.height, offset=0.0, like=depth).expand(*depth.shape, 2)
    flat = rearrange(pixels, "v h w c -> v (h w) c"), rearrange(depth, "v h w -> v (h w)")
    return unproject(*flat, cameras)[flat[1] > 0]


def voxel_means(points: Float[Tensor, "n 3"], size: float) -> Float[Tensor, "m 3"]:
    """One point, the mean, for each occupied cell of a grid (Open3D's voxel_down_sample): evens out the density."""
    cells = ((points.double() - points.double().amin(dim=0) + size / 2) / size).floor().long()
    _, cell, counts = torch.unique(cells, dim=0, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), 3, dtype=torch.float64).index_add_(0, cell, points.double())
    return (sums / counts[:, None]).to(points)


def occupied(mesh: Mesh, *, resolution: int = 64, half_extent: float = 1.0) -> Bool[Tensor, "x y z"]:
    """Which points of a grid lie inside a mesh, by counting crossings along rays (so holes give wrong cells)."""
    # Quirk: as in mesh2sdf, which SyncDreamer's evaluation uses, point i stands at the lower corner of cell i.
    axis = (np.arange(resolution) / resolution * 2 - 1) * half_extent
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    surface = _trimesh(mesh)
    inside = np.zeros(grid.shape[:3], dtype=bool)
    near = ((grid >= surface.bounds[0]) & (grid <= surface.bounds[1])).all(axis=-1)
    inside[near] = surface.contains(grid[near]) if near.any() else False
    return torch.from_numpy(inside)


def volume_iou(mesh_a: Mesh, mesh_b: Mesh, *, resolution: int = 64, half_extent: float = 1.0) -> float:
    """Overlap of two closed meshes on a grid over [-half_extent, half_extent]^3; BadMesh when both are empty there."""
    a, b = (occupied(mesh, resolution=resolution, half_extent=half_extent) for mesh in (mesh_a, mesh_b))
    union = int((a | b).sum())
    if union == 0:
        raise BadMesh(f"neither mesh holds a point of the {resolution}^3 grid; is the scale right?")
    return int((a & b).sum()) / union


def _points(points: Tensor, name: str) -> np.ndarray:
    values = points.detach().cpu().double().numpy()
    if values.ndim != 2 or values.shape[1] != 3 or len(values) == 0:
        raise BadMesh(f"the {name} point set has shape {values.shape}; expected at least one point [n, 3]")
    if not np.isfinite(values).all():
        raise BadMesh(f"the {name} point set contains NaN or infinity")
    return values


def _trimesh(mesh: Mesh) -> trimesh.Trimesh:
    if len(mesh.faces) == 0 or len(mesh.vertices) == 0:
        raise BadMesh(f"the mesh is empty ({len(mesh.vertices)} vertices, {len(mesh.faces)} faces)")
    if not torch.isfinite(mesh.vertices).all():
        raise BadMesh("the mesh has NaN or infinite vertices")
    return trimesh.Trimesh(mesh.vertices.detach().cpu().numpy(), mesh.faces.cpu().numpy(), process=False)
