"""Closed triangle meshes of the primitives, centred at 0, axis along z, with given half extents (x, y, z).

Vertices are shared where a surface is smooth and doubled along creases, so that vertex normals shade both rightly.
Faces wind counter-clockwise seen from outside.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

Triangles = tuple[Float[np.ndarray, "num_vertices 3"], Int[np.ndarray, "num_faces 3"]]

NUM_AROUND = 20  # vertices around an axis
NUM_ALONG = 11  # vertices from pole to pole


def box(half: Sequence[float]) -> Triangles:
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    vertices = corners[np.array(sides).reshape(-1)] * half
    faces = [[4 * side + i for i in corner] for side in range(6) for corner in ((0, 1, 2), (0, 2, 3))]
    return vertices, np.array(faces)


def sphere(half: Sequence[float]) -> Triangles:
    return superquadric(half, roundness=1.0)


def superquadric(half: Sequence[float], roundness: float) -> Triangles:
    """Barr 1981 with both exponents equal: below 1 a rounded box, 1 an ellipsoid, 2 an octahedron."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, NUM_ALONG)
    radius, height = _power(np.cos(latitude), roundness), _power(np.sin(latitude), roundness)
    radius[[0, -1]] = 0.0
    return _lathe([np.stack([radius, height], axis=-1)], half, roundness)


def cylinder(half: Sequence[float]) -> Triangles:
    profile = np.array([[0, -1], [1, -1], [1, 1], [0, 1]], dtype=np.float64)
    return _lathe([profile[0:2], profile[1:3], profile[2:4]], half)


def cone(half: Sequence[float]) -> Triangles:
    side = np.stack([np.linspace(1, 0, 4), np.linspace(-1, 1, 4)], axis=-1)
    return _lathe([np.array([[0.0, -1.0], [1.0, -1.0]]), side], half)


def capsule(half: Sequence[float]) -> Triangles:
    """A cylinder between two half spheres of radius half[0]; half[2] >= half[0] includes them."""
    angle = np.linspace(0, np.pi / 2, NUM_ALONG // 2 + 1)
    straight = 1 - half[0] / half[2]
    cap = np.stack([np.cos(angle), straight + (1 - straight) * np.sin(angle)], axis=-1)
    cap[-1, 0] = 0.0
    return _lathe([np.concatenate([cap[::-1] * [1, -1], cap])], half)


def torus(half: Sequence[float]) -> Triangles:
    """A ring around z: outer radius half[0], tube radius half[2]."""
    around, along = _turn(NUM_AROUND + 4), _turn(NUM_ALONG)
    radius = half[0] - half[2] + half[2] * np.cos(along)
    vertices = np.stack(
        [
            radius[:, None] * np.cos(around),
            radius[:, None] * np.sin(around) * half[1] / half[0],
            (half[2] * np.sin(along))[:, None].repeat(len(around), axis=1),
        ],
        axis=-1,
    )
    return vertices.reshape(-1, 3), _grid_faces(len(along), len(around), closed=True)


PRIMITIVES: dict[str, Callable[[Sequence[float]], Triangles]] = {
    "box": box,
    "cube": box,
    "sphere": sphere,
    "cylinder": cylinder,
    "cone": cone,
    "capsule": capsule,
    "torus": torus,
    "rounded box": lambda half: superquadric(half, roundness=0.4),
    "diamond": lambda half: superquadric(half, roundness=2.0),
}


def _lathe(profiles: Sequence[np.ndarray], half: Sequence[float], roundness: float = 1.0) -> Triangles:
    """Profiles (radius, height), from bottom to top, turned around z; each is smooth, with creases between them."""
    angle = _turn(NUM_AROUND)
    circle = np.stack([_power(np.cos(angle), roundness), _power(np.sin(angle), roundness)], axis=-1)
    vertices, faces = [], []
    for profile in profiles:
        start = sum(len(v) for v in vertices)
        flat = profile[:, None, :1] * circle
        height = np.broadcast_to(profile[:, None, 1:], (*flat.shape[:2], 1))
        vertices.append(np.concatenate([flat, height], axis=-1).reshape(-1, 3))
        faces.append(_grid_faces(len(profile), len(angle), closed=False) + start)
    return np.concatenate(vertices) * half, _drop_degenerate(np.concatenate(vertices), np.concatenate(faces))


def _grid_faces(rows: int, columns: int, *, closed: bool) -> Int[np.ndarray, "num_faces 3"]:
    """Two triangles per cell of a grid whose columns wrap around, and whose rows do if `closed`."""
    row, column = np.meshgrid(np.arange(rows if closed else rows - 1), np.arange(columns), indexing="ij")
    a, b = row * columns + column, row * columns + (column + 1) % columns
    up = columns * (((row + 1) % rows) - row)
    cells = np.stack([np.stack([a, b, b + up], axis=-1), np.stack([a, b + up, a + up], axis=-1)])
    return cells.reshape(-1, 3)


def _drop_degenerate(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Without the triangles of no area that a profile's pole leaves."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return faces[np.linalg.norm(np.cross(b - a, c - a), axis=-1) > 1e-12]


def _turn(count: int) -> np.ndarray:
    return np.arange(count) * (2 * np.pi / count)


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """Signed power, with the rounding noise of cos(pi / 2) and the like removed first."""
    values = np.where(np.abs(values) < 1e-9, 0.0, values)
    return np.sign(values) * np.abs(values) ** exponent
