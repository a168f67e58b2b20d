"""Cameras: poses, named rigs, rays, and the embeddings that models read."""

from core.cameras.embeddings import camera_matrix_embedding, pluecker_embedding, polar_embedding
from core.cameras.poses import check_poses, from_opengl, look_at, orbit, spherical, to_opengl
from core.cameras.rays import pixel_rays, project, unproject
from core.cameras.rigs import RIGS, rig

__all__ = [
    "RIGS",
    "camera_matrix_embedding",
    "check_poses",
    "from_opengl",
    "look_at",
    "orbit",
    "pixel_rays",
    "pluecker_embedding",
    "polar_embedding",
    "project",
    "rig",
    "spherical",
    "to_opengl",
    "unproject",
]
