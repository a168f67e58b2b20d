"""Parts of toybox objects: primitives of one colour, placed, and the mesh that they are together.

An object faces +x, its left is +y, up is z. Lengths are those of the grammar; `ToyObject.mesh` scales them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from core.data.toybox_captions import COLORS
from core.types import Mesh
from data_tools.toybox.primitives import PRIMITIVES, Triangles

FRONT, BACK, LEFT, RIGHT, UP = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1))


@dataclass(frozen=True)
class Part:
    """A primitive of one colour, placed: its own z axis points along `axis`."""

    kind: str
    color: str
    rgb: tuple[float, float, float]
    half: tuple[float, float, float]  # half extents along its own axes
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = UP
    front: str | None = None  # the colour of its painted front

    def mesh(self) -> Triangles:
        vertices, faces = PRIMITIVES[self.kind](self.half)
        return vertices @ _frame(self.axis).T + np.asarray(self.position), faces


@dataclass(frozen=True)
class ToyObject:
    """Parts, the body first, and the sentence that says exactly what they are."""

    parts: tuple[Part, ...]
    caption: str

    def mesh(self) -> Mesh:
        """All parts as one mesh, coloured; the longest side of its bounding box is 1, and the box is centred at 0."""
        vertices, faces, colors = [], [], []
        for part in self.parts:
            part_vertices, part_faces = part.mesh()
            part_vertices, part_faces, part_colors = _painted(part, part_vertices, part_faces)
            faces.append(part_faces + sum(len(v) for v in vertices))
            vertices.append(part_vertices)
            colors.append(part_colors)
        vertices = np.concatenate(vertices)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        vertices = (vertices - (low + high) / 2) / (high - low).max()
        return Mesh(
            vertices=torch.from_numpy(vertices).float(),
            faces=torch.from_numpy(np.concatenate(faces)).long(),
            colors=torch.from_numpy(np.concatenate(colors)).float(),
        )

    def to_dict(self) -> dict:
        return {"caption": self.caption, "parts": [asdict(part) for part in self.parts]}


def colored(rng: np.random.Generator, kind: str, color: str, half: Sequence[float], axis=UP) -> Part:
    """A part of nearly that colour, at the origin; `half` are half extents along its own axes."""
    tint = np.clip(np.array(COLORS[color]) + rng.uniform(-0.04, 0.04, size=3), 0.0, 1.0)
    return Part(kind=kind, color=color, rgb=triple(tint), half=triple(half), axis=axis)


def attached(body: Part, part: Part, direction: tuple[int, int, int], through: tuple[float, float, float]) -> Part:
    """`part` half sunk into the body's surface, where the line along `direction` through a point leaves the body."""
    surface = _exit_point(*body.mesh(), np.array(through), np.array(direction, dtype=float))
    position = surface + 0.45 * part.half[2] * np.array(direction)
    return replace(part, position=triple(position), axis=direction)


def _exit_point(vertices: np.ndarray, faces: np.ndarray, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where the line leaves the mesh for good (Moeller, Trumbore 1997); if it misses, the nearest vertex."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    normal = np.cross(direction, c - a)
    determinant = ((b - a) * normal).sum(-1)
    safe = np.where(np.abs(determinant) < 1e-12, np.inf, determinant)
    u = ((point - a) * normal).sum(-1) / safe
    across = np.cross(point - a, b - a)
    v = (across @ direction) / safe
    hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & np.isfinite(safe)
    if hit.any():
        return point + direction * (((c - a) * across).sum(-1) / safe)[hit].max()
    offset = vertices - point
    beside = np.linalg.norm(offset - (offset @ direction)[:, None] * direction, axis=-1)
    return vertices[np.argmin(beside - 1e-3 * (offset @ direction))]


def extent(part: Part) -> tuple[float, float, float]:
    """Half extents along the world's axes, for a part whose axis is x, y or z."""
    return triple(np.abs(_frame(part.axis)) @ np.array(part.half))


def _frame(axis: Sequence[float]) -> Float[np.ndarray, "3 3"]:
    """A rotation that takes z to `axis`, one of the six directions along the world's axes."""
    z = np.array(axis, dtype=float)
    x = np.array(LEFT if abs(z[0]) else FRONT, dtype=float)
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _painted(part: Part, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part's colours; a painted front gets vertices of its own, so that the paint has a sharp edge."""
    if part.front is None:
        return vertices, faces, np.tile(part.rgb, (len(vertices), 1))
    a, b, c = vertices[faces].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    level = np.linalg.norm(normal[:, :2], axis=-1)
    center = (a + b + c) / 3 - part.position
    front = (normal[:, 0] > 0.6 * level) & (level > 0.3) & (center[:, 0] > 0)
    colors = np.concatenate([np.tile(part.rgb, (len(vertices), 1)), np.tile(COLORS[part.front], (len(vertices), 1))])
    return np.concatenate([vertices, vertices]), faces + len(vertices) * front[:, None], colors


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Three numbers of any kind as Python's floats."""
    x, y, z = (float(value) for value in values)
    return x, y, z
