"""Where a mesh lies: brought to unit size, turned; and the ball that every reconstruction must beat."""

import math

import torch
import trimesh

from core.errors import BadMesh
from core.types import Mesh


def unit_cube(mesh: Mesh) -> Mesh:
    """Centred by its bounding box, whose longest side becomes 1; BadMesh for one without extent."""
    low, high = mesh.vertices.amin(dim=0), mesh.vertices.amax(dim=0)
    side = (high - low).amax()
    if not side > 0:
        raise BadMesh("a mesh without extent cannot be normalised")
    return Mesh((mesh.vertices - (low + high) / 2) / side, mesh.faces, mesh.colors)


def turned(mesh: Mesh, angle_rad: float) -> Mesh:
    """Turned about the z axis, x towards y."""
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    rotation = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]).to(mesh.vertices)
    return Mesh(mesh.vertices @ rotation.T, mesh.faces, mesh.colors)


def sphere(radius: float = 0.5) -> Mesh:
    """A fine ball around the origin; by default inscribed in the unit cube."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return Mesh(torch.from_numpy(ball.vertices).float(), torch.from_numpy(ball.faces).long())
