"""Tensors that travel together.

World: right-handed, z up, the object inside the unit sphere. Camera: x right, y down, z forward (OpenCV).
Poses are camera-to-world, 4x4. Intrinsics are in pixels of an image `width` x `height`, where a pixel's centre stands
at integer + 0.5 unless a function says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras."""

    poses: Float[Tensor, "*batch 4 4"]
    intrinsics: Float[Tensor, "*batch 3 3"]
    width: int
    height: int

    @property
    def world_to_camera(self) -> Float[Tensor, "*batch 4 4"]:
        rotation = self.poses[..., :3, :3].transpose(-1, -2)
        translation = -rotation @ self.poses[..., :3, 3:]
        return torch.cat([torch.cat([rotation, translation], dim=-1), self.poses[..., 3:, :]], dim=-2)

    @property
    def centers(self) -> Float[Tensor, "*batch 3"]:
        return self.poses[..., :3, 3]

    def __len__(self) -> int:
        return self.poses.shape[0]

    def __getitem__(self, index) -> "Cameras":
        return replace(self, poses=self.poses[index], intrinsics=self.intrinsics[index])

    def to(self, *args) -> "Cameras":
        """The same cameras on another device or in another dtype."""
        return self._map(lambda tensor: tensor.to(*args))

    def scaled(self, width: int, height: int) -> "Cameras":
        """The same cameras for images resized to `width` x `height` (intrinsics follow)."""
        ratio = self.intrinsics.new_tensor([width / self.width, height / self.height, 1.0])
        return replace(self, intrinsics=self.intrinsics * ratio[:, None], width=width, height=height)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Cameras":
        return replace(self, poses=change(self.poses), intrinsics=change(self.intrinsics))


@dataclass(frozen=True)
class Rays:
    """Half-lines in world space; directions have unit length."""

    origins: Float[Tensor, "*batch 3"]
    directions: Float[Tensor, "*batch 3"]

    def __getitem__(self, index) -> "Rays":
        return Rays(self.origins[index], self.directions[index])


@dataclass(frozen=True)
class Mesh:
    """Triangles, with optional vertex colours in [0, 1]; faces wind counter-clockwise seen from outside."""

    vertices: Float[Tensor, "num_vertices 3"]
    faces: Int[Tensor, "num_faces 3"]
    colors: Float[Tensor, "num_vertices 3"] | None = None
