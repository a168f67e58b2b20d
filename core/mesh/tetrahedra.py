"""Marching tetrahedra (Doi & Koide 1991), with the table and the order of faces of DMTet (Shen et al. 2021).

A scalar lives on the vertices of a tetrahedral grid; where it changes sign along an edge, the surface crosses it. Grids
fill [0, 1]^3: Kuhn's, made here for any resolution, or a file of the official layout.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.errors import BadMesh

EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))  # of a tetrahedron, between its corners
# Triangles for each combination of positive corners (bit i for corner i), by edge.
TRIANGLES = (
    (), ((1, 0, 2),), ((4, 0, 3),), ((1, 4, 2), (1, 3, 4)), ((3, 1, 5),), ((2, 3, 0), (2, 5, 3)),
    ((1, 4, 0), (1, 5, 4)), ((4, 2, 5),), ((4, 5, 2),), ((4, 1, 0), (4, 5, 1)), ((3, 2, 0), (3, 5, 2)),
    ((1, 3, 5),), ((4, 1, 2), (4, 3, 1)), ((3, 0, 4),), ((2, 0, 1),), (),
)  # fmt: skip


@dataclass(frozen=True)
class TetGrid:
    """Vertices in [0, 1]^3 and tetrahedra of positive orientation."""

    vertices: Float[Tensor, "n 3"]
    tets: Int[Tensor, "m 4"]

    @property
    def border(self) -> Bool[Tensor, "n"]:
        """The vertices on the faces of the cube."""
        return ((self.vertices <= 0) | (self.vertices >= 1)).any(-1)


def kuhn_grid(resolution: int) -> TetGrid:
    """Every cell of a regular grid cut into six tetrahedra around its diagonal (Kuhn 1960)."""
    if resolution < 1:
        raise ValueError(f"expected a resolution of at least 1, got {resolution}")
    count = resolution + 1
    axis = torch.linspace(0, 1, count)
    vertices = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    strides = (count * count, count, 1)
    cell = torch.arange(resolution)
    cells = (cell[:, None, None] * strides[0] + cell[:, None] * strides[1] + cell).reshape(-1, 1)
    paths = []  # from a cell's lowest corner to its highest, one axis at a time; even permutations turn the right way
    for first, second, third in ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0)):
        path = [0, strides[first], strides[first] + strides[second], sum(strides)]
        even = (first, second, third) in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
        paths.append(path if even else [path[0], path[2], path[1], path[3]])
    return TetGrid(vertices, (cells[:, None] + torch.tensor(paths)).reshape(-1, 4))


def read_tets(path: str | Path) -> TetGrid:
    """A grid from an .npz with `vertices` [n, 3] in [0, 1] and `indices` [m, 4], as threestudio's `load/tets` has them.

    Raises:
        BadMesh: no such file, or not a grid.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            vertices, tets = arrays["vertices"], arrays["indices"]
    except FileNotFoundError:
        raise BadMesh(f"no tetrahedral grid {path}; give another path, or none to have a grid made") from None
    except (OSError, KeyError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BadMesh(f"{path}: no tetrahedral grid ({error}); expected an .npz of vertices and indices") from error
    fault = _grid_fault(vertices, tets)
    if fault:
        raise BadMesh(f"{path}: {fault}; make the grid again")
    return TetGrid(torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(tets.astype(np.int64)))


def _grid_fault(vertices: np.ndarray, tets: np.ndarray) -> str:
    if vertices.ndim != 2 or vertices.shape[1:] != (3,) or tets.ndim != 2 or tets.shape[1:] != (4,):
        return f"vertices {list(vertices.shape)} and indices {list(tets.shape)} instead of [n, 3] and [m, 4]"
    if not np.issubdtype(vertices.dtype, np.floating) or not np.issubdtype(tets.dtype, np.integer):
        return f"vertices of {vertices.dtype} and indices of {tets.dtype} instead of numbers and whole numbers"
    if len(vertices) == 0 or len(tets) == 0:
        return "an empty grid"
    if not np.isfinite(vertices).all() or vertices.min() < -1e-6 or vertices.max() > 1 + 1e-6:
        return "vertices outside of [0, 1]"
    if tets.min() < 0 or tets.max() >= len(vertices):
        return f"indices outside of the {len(vertices)} vertices"
    return ""


def deformed(vertices: Float[Tensor, "n 3"], offsets: Float[Tensor, "n 3"], resolution: int) -> Float[Tensor, "n 3"]:
    """Vertices moved by less than a cell: vertex + tanh(offset) / resolution."""
    return vertices + torch.tanh(offsets) / resolution


def unique_edges(tets: Int[Tensor, "m 4"], num_vertices: int) -> tuple[Int[Tensor, "e 2"], Int[Tensor, "m 6"]]:
    """Edges (lower vertex first), sorted, each once; and the edges of every tetrahedron in the order of EDGES."""
    ends = tets[:, torch.tensor(EDGES)].sort(dim=-1).values  # [m, 6, 2]
    key, place = (ends[..., 0] * num_vertices + ends[..., 1]).unique(return_inverse=True)
    return torch.stack([key // num_vertices, key % num_vertices], dim=-1), place


def marching_tetrahedra(
    vertices: Float[Tensor, "n 3"], level: Float[Tensor, "n"], tets: Int[Tensor, "m 4"]
) -> tuple[Float[Tensor, "v 3"], Int[Tensor, "f 3"]]:
    """The surface where `level` is 0; its faces look towards positive values. Differentiable in vertices and level.

    Vertices come in the order of the edges they lie on; of the faces, those of tetrahedra with one triangle come first.
    A value of exactly 0 counts as negative.
    """
    positive = level > 0
    count = positive[tets].sum(-1)
    tets = tets[(count > 0) & (count < 4)]
    edges, of_tet = unique_edges(tets, len(vertices))
    crossed = positive[edges].sum(-1) == 1
    number = torch.full((len(edges),), -1, dtype=torch.long, device=tets.device)
    number[crossed] = torch.arange(int(crossed.sum()), device=tets.device)
    low, high = edges[crossed].unbind(-1)
    share = level[low] / (level[low] - level[high])  # of the way from the lower vertex to the higher
    points = vertices[low] * (1 - share[:, None]) + vertices[high] * share[:, None]
    case = (positive[tets] * torch.tensor([1, 2, 4, 8], device=tets.device)).sum(-1)
    faces = []
    for triangles in (1, 2):
        for_case = torch.zeros(16, 3 * triangles, dtype=torch.long, device=tets.device)
        for index, rows in enumerate(TRIANGLES):
            if len(rows) == triangles:
                for_case[index] = torch.tensor(rows).reshape(-1)
        chosen = torch.tensor([len(rows) == triangles for rows in TRIANGLES], device=tets.device)[case]
        faces.append(number[of_tet[chosen]].gather(1, for_case[case[chosen]]).reshape(-1, 3))
    return points, torch.cat(faces)
