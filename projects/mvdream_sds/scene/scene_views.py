"""Views of scenes: their cameras, lights, and what the official programs exchange of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import to_opengl
from core.cameras.rays import pixel_rays
from core.types import Cameras, Rays

NEAR, FAR = 0.1, 1000.0


@dataclass(frozen=True)
class SceneViews:
    """Views of scenes; those of one scene follow each other."""

    cameras: Cameras
    light_positions: Float[Tensor, "views 3"]
    elevation_deg: Float[Tensor, "views"]
    azimuth_deg: Float[Tensor, "views"]
    fovy_deg: Float[Tensor, "views"]
    distance: Float[Tensor, "views"]

    @cached_property
    def rays(self) -> Rays:
        """Rays [views, height, width] through the pixels' centres."""
        return pixel_rays(self.cameras)

    @property
    def opengl_poses(self) -> Float[Tensor, "views 4 4"]:
        """Camera-to-world with OpenGL camera axes: what the official programs call c2w."""
        return to_opengl(self.cameras.poses)

    @property
    def clip_matrices(self) -> Float[Tensor, "views 4 4"]:
        """World to clip space, as nvdiffrast reads it (rows of the picture run downward)."""
        from_world = to_opengl(self.cameras.world_to_camera.mT).mT
        slope = torch.tan(torch.deg2rad(self.fovy_deg) / 2)
        matrix = slope.new_zeros(len(slope), 4, 4)
        matrix[:, 0, 0] = self.cameras.height / (slope * self.cameras.width)
        matrix[:, 1, 1] = -1 / slope
        matrix[:, 2, 2] = -(FAR + NEAR) / (FAR - NEAR)
        matrix[:, 2, 3] = -2 * FAR * NEAR / (FAR - NEAR)
        matrix[:, 3, 2] = -1
        return matrix @ from_world


def pinhole(poses: Float[Tensor, "views 4 4"], fovy_deg: Float[Tensor, "views"], width: int, height: int) -> Cameras:
    """Cameras with square pixels, a vertical field of view, and the principal point in the middle."""
    focal = 0.5 * height / torch.tan(torch.deg2rad(fovy_deg) / 2)
    intrinsics = focal.new_zeros(len(focal), 3, 3)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1
    return Cameras(poses, intrinsics, width, height)
