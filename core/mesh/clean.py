"""Repair of an extracted surface, and what to know about it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from core.errors import BadMesh
from core.types import Mesh


@dataclass(frozen=True)
class MeshReport:
    """Counts after cleaning, and what was taken away."""

    num_vertices: int
    num_faces: int
    num_components: int
    removed_components: int
    removed_faces: int  # degenerate ones; those of removed components are not counted
    watertight: bool
    volume: float  # in world units; meaningful when watertight
    genus: int  # handles of all components; meaningful when watertight and no two sheets meet in a vertex

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def clean_mesh(mesh: Mesh, *, min_component: float = 1.0) -> tuple[Mesh, MeshReport]:
    """Merge equal vertices, drop degenerate faces and small components.

    Args:
        min_component: components with less than this fraction of the largest one's area go; 1 keeps the largest only.
    """
    if len(mesh.faces) == 0:
        raise BadMesh("mesh has no faces; nothing to clean")
    vertices, faces, colors = _merged(mesh)
    corners = vertices[faces]
    doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    repeated = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    # Slivers with three distinct vertices stay: dropping them would tear the surface open.
    faces, areas = faces[~repeated], doubled[~repeated] / 2
    count, label = _components(faces, len(vertices))
    area = np.bincount(label, weights=areas, minlength=count)
    keep = area >= min_component * area.max()
    faces = faces[keep[label]]
    used, compact = np.unique(faces, return_inverse=True)
    cleaned = Mesh(
        torch.from_numpy(vertices[used]).to(mesh.vertices),
        torch.from_numpy(compact.reshape(-1, 3)).to(mesh.faces),
        None if colors is None else torch.from_numpy(colors[used]).to(mesh.vertices),
    )
    shape = trimesh.Trimesh(vertices[used], compact.reshape(-1, 3), process=False)
    report = MeshReport(
        num_vertices=len(used),
        num_faces=len(faces),
        num_components=int(keep.sum()),
        removed_components=int(count - keep.sum()),
        removed_faces=int(repeated.sum()),
        watertight=bool(shape.is_watertight),
        volume=float(shape.volume),
        genus=int(keep.sum()) - shape.euler_number // 2,
    )
    return cleaned, report


def _merged(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    vertices, faces = mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy()
    colors = None if mesh.colors is None else mesh.colors.cpu().numpy()
    key = vertices if colors is None else np.concatenate([vertices, colors], axis=1)  # a seam of two colours stays
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return vertices[first], inverse.reshape(-1)[faces], None if colors is None else colors[first]


def _components(faces: np.ndarray, num_vertices: int) -> tuple[int, np.ndarray]:
    """Number of pieces that hang together by vertices, and the piece of every face."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges), dtype=bool), edges.T), shape=(num_vertices, num_vertices))
    _, of_vertex = connected_components(graph, directed=False)
    pieces, label = np.unique(of_vertex[faces[:, 0]], return_inverse=True)
    return len(pieces), label
