"""Meshes of many objects against the truth: every object is scored or listed as missing, none is left out."""

from pathlib import Path
from typing import Any

import torch
import trimesh

from core.errors import BadData
from core.mesh.export import read_mesh
from core.metrics.shapes import chamfer, sample_surface
from core.types import Mesh

SPHERE_RADIUS = 0.5  # inscribed in the unit cube that every toybox object fills along its longest side


def compare(pred: Path, truth: Path, *, num_points: int, seed: int) -> dict[str, Any]:
    """Per object the Chamfer distance of its mesh and of a sphere; means over the objects that have a mesh.

    Raises BadData when there is nothing to compare.
    """
    wanted = sorted(path.name for path in pred.iterdir() if path.is_dir()) if pred.is_dir() else []
    names = [name for name in wanted if (truth / name / "mesh.ply").is_file()]
    if not names:
        raise BadData(f"no folder of {str(pred)!r} has a true mesh {str(truth)!r}/<object>/mesh.ply")
    ball = sphere()
    objects, missing = {}, []
    for name in names:
        path = pred / name / "mesh.ply"
        if not path.is_file():
            missing.append(name)
            continue
        target = sample_surface(read_mesh(truth / name / "mesh.ply"), num_points, seed=seed)
        objects[name] = {
            "mesh": chamfer(sample_surface(read_mesh(path), num_points, seed=seed + 1), target),
            "sphere": chamfer(sample_surface(ball, num_points, seed=seed + 1), target),
        }
    if not objects:
        raise BadData(f"none of {len(names)} objects in {str(pred)!r} has a mesh.ply")
    mean = {key: sum(scores[key] for scores in objects.values()) / len(objects) for key in ("mesh", "sphere")}
    return {"objects": objects, "missing": missing, "mean": mean, "num_points": num_points}


def sphere(radius: float = SPHERE_RADIUS) -> Mesh:
    """A fine ball around the origin."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=radius)
    return Mesh(torch.from_numpy(ball.vertices).float(), torch.from_numpy(ball.faces).long())
