"""Meshes brought into a common pose before shapes are compared: turned, of one size, moved onto each other."""

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from trimesh.registration import procrustes

from core.errors import BadMesh
from core.mesh.place import turned, unit_cube
from core.metrics.shapes import sample_surface
from core.types import Mesh
from projects.benchmark.blame import blamed_on
from projects.benchmark.solids import PREDICTED, TRUE, Shape

ICP_POINTS, ICP_STEPS = 5000, 50


def posed(shape: Shape, *, turn_rad: float, box: float | None) -> Shape:
    """Turned about the z axis, then centred by its bounding box with a longest side of `box` (None: as it lies)."""
    mesh = turned(shape.mesh, turn_rad) if turn_rad else shape.mesh
    if box is not None:
        unit = unit_cube(mesh)
        mesh = Mesh(unit.vertices * box, unit.faces, unit.colors)
    return replace(shape, mesh=mesh)


def moved_onto(made: Shape, true: Shape, *, within: float) -> Shape:
    """The predicted mesh after point-to-point ICP (Besl and McKay 1992) from where it lies: a turn and a shift.

    Args:
        within: pairs of points further apart than this are left out; BadMesh when fewer than 3 are nearer.
    """
    with blamed_on(PREDICTED):
        points = sample_surface(made.mesh, ICP_POINTS, seed=0).double().numpy()
    with blamed_on(TRUE):
        target = sample_surface(true.mesh, ICP_POINTS, seed=1).double().numpy()
    tree = cKDTree(target)
    motion = np.eye(4)
    for _ in range(ICP_STEPS):
        placed = points @ motion[:3, :3].T + motion[:3, 3]
        distance, nearest = tree.query(placed)
        near = distance <= within
        if near.sum() < 3:
            raise BadMesh(f"ICP: only {near.sum()} of {len(points)} points lie within {within:g} of the true surface")
        step, _, _ = procrustes(placed[near], target[nearest[near]], reflection=False, scale=False)
        motion = step @ motion
        if np.abs(step - np.eye(4)).max() < 1e-7:
            break
    vertices = made.mesh.vertices.double() @ torch.from_numpy(motion[:3, :3]).T + torch.from_numpy(motion[:3, 3])
    return replace(made, mesh=Mesh(vertices.to(made.mesh.vertices), made.mesh.faces, made.mesh.colors))
