"""Measures of meshes as published: what stands in a protocol's `shapes`. The distances themselves are core's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.rigs import rig
from core.errors import BadImage, BadMesh
from core.mesh.place import turned, unit_cube
from core.metrics.shapes import (
    chamfer,
    f_score,
    normal_consistency,
    sample_surface,
    screen_affine_depth,
    soundness,
    squared_chamfer,
    visible_points,
    volume_iou,
    voxel_means,
)
from core.render.cuda_raster import rasterize_nvdiffrast, require_nvdiffrast
from core.render.raster import rasterize
from core.types import Cameras, Mesh
from projects.benchmark.blame import blamed_on

Rasterizer = Literal["cpu", "nvdiffrast"]
DEVICES = {"cpu": "cpu", "nvdiffrast": "cuda"}
PREDICTED, TRUE = "predicted mesh", "true mesh"  # how a message about either begins

VOXEL = 0.01  # SyncDreamer evens out the density of its points on this grid
DEPTH_NEAR, DEPTH_RANGE = 0.6, 1.8  # of SyncDreamer's depth pictures: z = value / 65535 * 1.8 + 0.6
DEPTH_MARGIN = 0.03  # what lies nearer than this to either end is background
RENDER_SIZE = 256


@dataclass(frozen=True)
class Shape:
    """An object's mesh, and where its depth pictures lie if there are any."""

    name: str
    mesh: Mesh
    depth_folder: Path | None = None


def surface_chamfer(prediction: Shape, truth: Shape, *, num_points: int = 20000, seed: int = 0) -> float:
    """Chamfer distance of points spread evenly over both surfaces; as the meshes lie, nothing is aligned."""
    return chamfer(*_surface_points(prediction, truth, num_points, seed))


def surface_squared_chamfer(prediction: Shape, truth: Shape, *, num_points: int = 10000, seed: int = 0) -> float:
    """ViewFusion's: the sum of the mean squared distances both ways, of points spread evenly over both surfaces."""
    return squared_chamfer(*_surface_points(prediction, truth, num_points, seed))


def surface_f_score(
    prediction: Shape, truth: Shape, *, squared_threshold: float = 0.01, num_points: int = 10000, seed: int = 0
) -> float:
    """ViewFusion's F-score of points spread evenly over both surfaces."""
    # Quirk: its threshold of 0.01 is compared with squared distances, so points count that are 0.1 away.
    points = _surface_points(prediction, truth, num_points, seed)
    return f_score(*points, within=math.sqrt(squared_threshold))


def surface_normals(prediction: Shape, truth: Shape, *, num_points: int = 20000, seed: int = 0) -> float:
    """Mean |cos| between the normals of nearest points, both ways; as the meshes lie."""
    return normal_consistency(prediction.mesh, truth.mesh, num_points=num_points, seed=seed)


def plain_volume_iou(prediction: Shape, truth: Shape, *, resolution: int = 64, half_extent: float = 1.0) -> float:
    """Overlap of volumes on a grid, as the meshes lie."""
    return volume_iou(prediction.mesh, truth.mesh, resolution=resolution, half_extent=half_extent)


def watertight(prediction: Shape, truth: Shape) -> float:
    """1 if the predicted mesh is closed, else 0; the truth is not asked."""
    return float(soundness(prediction.mesh).watertight)


def components(prediction: Shape, truth: Shape) -> float:
    """In how many pieces the predicted mesh is; the truth is not asked."""
    return float(soundness(prediction.mesh).num_components)


def visible_chamfer(prediction: Shape, truth: Shape, *, rasterizer: Rasterizer = "cpu") -> float:
    """SyncDreamer's: between the points that its 16 views see. True points come from the depth pictures."""
    if truth.depth_folder is None:
        raise BadMesh(f"{truth.name}: the protocol's layout names no depths; set protocol.truth.depths")
    with blamed_on(TRUE):
        target = depth_points(truth.depth_folder)
    with blamed_on(PREDICTED):
        return chamfer(seen_points(prediction.mesh, rasterizer), target)


class VisibleChamfer:
    """`visible_chamfer` as a protocol chooses its rasteriser, which is refused here, before any object is scored.

    Args:
        rasterizer: `cpu`: ours; `nvdiffrast`: that package on a CUDA GPU, with which the official code draws. They
            may differ by a few pixels of the silhouettes, which the number feels: the grid that evens out the points
            begins at the lowest of them. So the choice is part of a protocol's hash.

    Raises BadRequest, when it is built, where nvdiffrast or its GPU is not there.
    """

    def __init__(self, *, rasterizer: Rasterizer = "cpu") -> None:
        if rasterizer == "nvdiffrast":
            require_nvdiffrast("rasterizer=nvdiffrast")
        self.rasterizer = rasterizer

    def __call__(self, prediction: Shape, truth: Shape) -> float:
        return visible_chamfer(prediction, truth, rasterizer=self.rasterizer)


def _surface_points(prediction: Shape, truth: Shape, num_points: int, seed: int) -> tuple[Tensor, Tensor]:
    with blamed_on(TRUE):
        target = sample_surface(truth.mesh, num_points, seed=seed)
    with blamed_on(PREDICTED):
        return sample_surface(prediction.mesh, num_points, seed=seed + 1), target


def seen_points(mesh: Mesh, rasterizer: Rasterizer = "cpu") -> Float[Tensor, "n 3"]:
    """Points of a mesh that SyncDreamer's 16 cameras see, evened out."""
    cameras = rig("syncdreamer", size=RENDER_SIZE)
    points = visible_points(seen_depth(mesh, cameras, rasterizer), cameras)
    if len(points) == 0:
        raise BadMesh("none of the 16 cameras sees the mesh; is its scale right?")
    return voxel_means(points, VOXEL)


def seen_depth(mesh: Mesh, cameras: Cameras, rasterizer: Rasterizer) -> Float[Tensor, "v h w"]:
    """Depth maps of a mesh by the chosen rasteriser; 0 where nothing is."""
    draw, device = rasterize_nvdiffrast if rasterizer == "nvdiffrast" else rasterize, DEVICES[rasterizer]
    there = Mesh(mesh.vertices.to(device), mesh.faces.to(device))
    return screen_affine_depth(there, cameras.to(device), rasterizer=draw).cpu()


def depth_points(folder: Path) -> Float[Tensor, "n 3"]:
    """Points of SyncDreamer's 16 depth pictures, evened out."""
    cameras = rig("syncdreamer", size=RENDER_SIZE)
    depth = [read_depth(folder / f"{view:03d}-depth.png") for view in range(len(cameras))]
    if other := {tuple(one.shape) for one in depth} - {(RENDER_SIZE, RENDER_SIZE)}:
        raise BadImage(f"{str(folder)!r}: a picture of depth has {other.pop()} pixels instead of {RENDER_SIZE} squared")
    points = visible_points(torch.stack(depth), cameras)
    if len(points) == 0:
        raise BadImage(f"{str(folder)!r}: the pictures of depth show nothing")
    return voxel_means(points, VOXEL)


def read_depth(path: Path) -> Float[Tensor, "h w"]:
    """One of SyncDreamer's depth pictures in world units; 0 where nothing is."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        raise BadImage(f"{str(path)!r} is not a 16-bit gray picture of depth")
    z = torch.from_numpy(values.astype(np.float32)) / 65535 * DEPTH_RANGE + DEPTH_NEAR
    inside = (z > DEPTH_NEAR + DEPTH_MARGIN) & (z < DEPTH_NEAR + DEPTH_RANGE - DEPTH_MARGIN)
    return torch.where(inside, z, 0.0)


def posed_volume_iou(prediction: Shape, truth: Shape, *, turns_deg: Mapping[str, float], resolution: int = 64) -> float:
    """SyncDreamer's: overlap of volumes, the true mesh brought to unit size and turned into its rendered pose.

    Args:
        turns_deg: per object, the angle of the table in its evaluation; 0 for objects that it does not name.
    """
    with blamed_on(TRUE):
        posed = turned(unit_cube(truth.mesh), -math.radians(turns_deg.get(truth.name, 0.0)))
    return volume_iou(prediction.mesh, posed, resolution=resolution)
