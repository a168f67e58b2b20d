"""Scores of shapes against the truth: Chamfer distance between point sets and the overlap of volumes.

Distances are in world units (the object inside the unit sphere), not squared unless a name says so. Nothing is aligned
or rescaled here. What a mesh is like by itself (closed, in one piece) is told by `soundness`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from einops import rearrange
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor

from core.cameras.rays import pixel_grid, project, unproject
from core.errors import BadMesh
from core.render.raster import RasterOutput, rasterize
from core.types import Cameras, Mesh


def chamfer(points_a: Float[Tensor, "n 3"], points_b: Float[Tensor, "m 3"]) -> float:
    """Half the sum of the mean distances to the nearest point, both ways; BadMesh for an empty or broken point set."""
    a, b = _points(points_a, "first"), _points(points_b, "second")
    return 0.5 * (cKDTree(b).query(a)[0].mean() + cKDTree(a).query(b)[0].mean())


def squared_chamfer(points_a: Float[Tensor, "n 3"], points_b: Float[Tensor, "m 3"]) -> float:
    """The sum, both ways, of the mean squared distances to the nearest point (Fan et al. 2017)."""
    a, b = _points(points_a, "first"), _points(points_b, "second")
    return float(np.square(cKDTree(b).query(a)[0]).mean() + np.square(cKDTree(a).query(b)[0]).mean())


def f_score(points_a: Float[Tensor, "n 3"], points_b: Float[Tensor, "m 3"], *, within: float) -> float:
    """Harmonic mean of the fractions of either set that lie nearer than `within` to the other (Knapitsch et al. 2017).

    0 where both fractions are.
    """
    a, b = _points(points_a, "first"), _points(points_b, "second")
    precision, recall = ((cKDTree(q).query(p)[0] < within).mean() for p, q in ((a, b), (b, a)))
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def normal_consistency(mesh_a: Mesh, mesh_b: Mesh, *, num_points: int = 20000, seed: int = 0) -> float:
    """Mean of |cos| between the normals at a point and at the nearest point of the other surface, both ways.

    Nearly 1 for equal surfaces (points at an edge may meet the next side). The sign is left out because not every mesh
    winds its faces outwards (Mescheder et al. 2019).
    """
    (a, normals_a), (b, normals_b) = (_oriented(m, num_points, seed + n) for n, m in enumerate((mesh_a, mesh_b)))
    to_b, to_a = cKDTree(b).query(a)[1], cKDTree(a).query(b)[1]
    one_way = np.abs((normals_a * normals_b[to_b]).sum(axis=1)).mean()
    return float((one_way + np.abs((normals_b * normals_a[to_a]).sum(axis=1)).mean()) / 2)


def sample_surface(mesh: Mesh, num_points: int, *, seed: int) -> Float[Tensor, "num_points 3"]:
    """Points spread over the surface evenly by area; the same for the same seed."""
    surface = _trimesh(mesh)
    if not surface.area > 0:
        raise BadMesh("cannot sample a mesh whose area is 0")
    points, _ = trimesh.sample.sample_surface(surface, num_points, seed=seed)
    return torch.from_numpy(np.asarray(points)).float()


def screen_affine_depth(
    mesh: Mesh, cameras: Cameras, *, rasterizer: Callable[[Mesh, Cameras], RasterOutput] = rasterize
) -> Float[Tensor, "views h w"]:
    """Depth maps of a mesh (0 = nothing there) as SyncDreamer's evaluation draws them.

    Args:
        rasterizer: `core.render.raster.rasterize`, or one of its meaning on the device of mesh and cameras.
    """
    # Quirk: it interpolates depth linearly on the screen, not in space, which bends triangles that are large. With
    # perspective-correct barycentrics b and vertex depths z that is sum(b z^2) / sum(b z).
    seen = rasterizer(mesh, cameras)
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
    sums = points.new_zeros(len(counts), 3, dtype=torch.float64).index_add_(0, cell, points.double())
    return (sums / counts[:, None]).to(points)


def occupied(mesh: Mesh, *, resolution: int = 64, half_extent: float = 1.0) -> Bool[Tensor, "x y z"]:
    """Which points of a grid over [-half_extent, half_extent]^3 lie inside a mesh: behind an odd number of surfaces.

    Surfaces are counted along x from below, as mesh2sdf 1.1 does (Batty's level sets), which SyncDreamer's evaluation
    uses; so an open mesh, of which "inside" says nothing, gets the same cells. A test compares both.
    """
    # Quirk: as there, point i stands at the lower corner of cell i, and a point on the surface itself is not inside.
    triangles = (mesh.vertices.detach().cpu().double().numpy() / half_extent + 1) / 2 * resolution
    triangles = triangles[mesh.faces.cpu().numpy()]
    behind = np.zeros((resolution, resolution, resolution), dtype=np.int64)
    touched = np.zeros(behind.shape, dtype=bool)
    for first in range(0, len(triangles), 10_000):
        for axis in range(3):  # a face along one axis is seen along another
            chunk = np.roll(triangles[first : first + 10_000], -axis, axis=-1)
            which, j, k = _points_below(chunk, resolution)
            inside, height = _crossed(chunk[which], j, k)
            i, j, k, height = np.ceil(height[inside]).clip(min=0), j[inside], k[inside], height[inside]
            i, j, k, height = (values[i < resolution] for values in (i.astype(int), j, k, height))
            on = i == height
            if axis == 0:
                np.add.at(behind, (i, j, k), 1)
            np.transpose(touched, [axis, (axis + 1) % 3, (axis + 2) % 3])[i[on], j[on], k[on]] = True
    return torch.from_numpy((behind.cumsum(axis=0) % 2 == 1) & ~touched)


def _points_below(triangles: np.ndarray, resolution: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangle, j and k for every point (j, k) of the grid of the last two axes in a triangle's bounding rectangle."""
    low = np.ceil(triangles[:, :, 1:].min(axis=1)).clip(0, resolution).astype(int)
    high = np.floor(triangles[:, :, 1:].max(axis=1)).clip(-1, resolution - 1).astype(int)
    wide, deep = (high - low + 1).clip(min=0).T
    which = np.repeat(np.arange(len(triangles)), wide * deep)
    place = np.arange(len(which)) - np.repeat(np.cumsum(wide * deep) - wide * deep, wide * deep)
    row, column = np.divmod(place, deep[which])
    return which, low[which, 0] + row, low[which, 1] + column


def _crossed(triangles: np.ndarray, j: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the line along the first axis through (j, k) crosses each triangle, and where.

    A line through an edge or a corner crosses one of the triangles that meet there (simulation of simplicity).
    """
    corners = triangles[:, :, 1:] - np.stack([j, k], axis=-1)[:, None]
    signs, areas = zip(*(_side(corners[:, (e + 1) % 3], corners[:, (e + 2) % 3]) for e in range(3)), strict=True)
    total = sum(areas)
    inside = (signs[0] != 0) & (signs[0] == signs[1]) & (signs[1] == signs[2]) & (total != 0)
    weights = np.stack(areas, axis=-1) / np.where(total == 0, 1, total)[:, None]
    return inside, (weights * triangles[:, :, 0]).sum(axis=-1)


def _side(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """On which side of the edge a-b the origin lies, never 0 where a and b differ; and twice the signed area."""
    area = a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1]
    ties = (np.sign(b[:, 1] - a[:, 1]), np.sign(a[:, 0] - b[:, 0]))
    return np.where(area != 0, np.sign(area), np.where(ties[0] != 0, ties[0], ties[1])), area


def volume_iou(mesh_a: Mesh, mesh_b: Mesh, *, resolution: int = 64, half_extent: float = 1.0) -> float:
    """Overlap of two meshes on a grid over [-half_extent, half_extent]^3; BadMesh when both are empty there."""
    a, b = (occupied(mesh, resolution=resolution, half_extent=half_extent) for mesh in (mesh_a, mesh_b))
    union = int((a | b).sum())
    if union == 0:
        raise BadMesh(f"neither mesh holds a point of the {resolution}^3 grid; is the scale right?")
    return int((a & b).sum()) / union


@dataclass(frozen=True)
class Soundness:
    """What a mesh is like by itself, vertices at one place taken as one."""

    watertight: bool
    num_components: int


def soundness(mesh: Mesh) -> Soundness:
    """Whether every edge has two faces, and in how many pieces the surface hangs together by its edges."""
    surface = _trimesh(mesh)
    surface.merge_vertices(merge_tex=True, merge_norm=True)
    surface.update_faces(surface.nondegenerate_faces())
    if len(surface.faces) == 0:
        raise BadMesh("the mesh has no face with an area")
    return Soundness(bool(surface.is_watertight), int(surface.body_count))


def _oriented(mesh: Mesh, num_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points spread over the surface, and the unit normals of the faces that they lie on."""
    surface = _trimesh(mesh)
    if not surface.area > 0:
        raise BadMesh("cannot sample a mesh whose area is 0")
    points, faces = trimesh.sample.sample_surface(surface, num_points, seed=seed)
    corners = surface.triangles[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return np.asarray(points), normals / np.linalg.norm(normals, axis=1, keepdims=True)


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
