"""Lenses and poses between view sets and layouts that hold less: one lens, an opening angle, 3 x 4 matrices."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from core.cameras.poses import to_opengl
from core.cameras.rigs import focal_from_fov
from core.errors import BadCamera, BadData
from core.views import ViewSet

LENS_TOLERANCE = 1e-6  # of the image's side: what float32 loses, and far below what could be seen


def square_lens(focal: float) -> Callable[[int, int], dict[str, float]]:
    """The schema's keys of a lens with that focal length in image sides; BadData for images that are not square."""

    def lens(width: int, height: int) -> dict[str, float]:
        if width != height:
            raise BadData(f"the images are {width} x {height}; this layout's are square")
        return {"fl_x": focal * width, "fl_y": focal * width, "cx": width / 2, "cy": width / 2}

    return lens


def angle_lens(angle: Any) -> dict[str, Any]:
    """The schema's keys of a horizontal opening angle in radians; what is none is refused by `core.views`."""
    return {"camera_angle_x": angle}


def one_lens(views: ViewSet, layout: str, *, square: bool = False, focal: float | None = None) -> float:
    """The focal length in image widths of a view set whose views share one centred lens; BadCamera for any other.

    Args:
        focal: the only one that the layout can hold, in image widths.
    """
    width, height = views.cameras.width, views.cameras.height
    if square and width != height:
        raise BadCamera(f"the images are {width} x {height}; layout={layout} holds square ones")
    own = views.cameras.intrinsics.double() / width
    wanted = focal if focal is not None else own[0, 0, 0].item()
    expected = torch.tensor([[wanted, 0, 0.5], [0, wanted, 0.5 * height / width], [0, 0, 1 / width]]).double()
    off = (own - expected).abs().amax(dim=(1, 2)) > LENS_TOLERANCE
    if off.any():
        k = views.cameras.intrinsics[int(off.nonzero()[0, 0])]
        raise BadCamera(
            f"view {int(off.nonzero()[0, 0])} has focal lengths {k[0, 0]:g}, {k[1, 1]:g} and centre {k[0, 2]:g}, "
            f"{k[1, 2]:g} pixels; layout={layout} holds only {wanted * width:g} and the image's middle in every view"
        )
    return wanted


def angle_x(views: ViewSet, layout: str, *, square: bool = False) -> float:
    """The horizontal opening angle in radians of such a view set."""
    return 2 * math.atan(0.5 / one_lens(views, layout, square=square))


def same_lens(views: ViewSet, fov_rad: float, layout: str) -> None:
    """Refuses a view set whose lens is not the one that the layout takes for granted."""
    one_lens(views, layout, square=True, focal=focal_from_fov(fov_rad))


def opengl(poses: torch.Tensor) -> np.ndarray:
    """OpenCV camera-to-world [n, 4, 4] -> OpenGL, float64."""
    return to_opengl(poses.double()).numpy()


def opengl_poses(views: ViewSet) -> np.ndarray:
    """OpenGL camera-to-world [n, 4, 4] of a view set, float64."""
    return opengl(views.cameras.poses)


def to_world_to_camera(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world [n, 4, 4] -> world-to-camera [n, 3, 4], of the same camera axes."""
    rotations = poses[:, :3, :3].transpose(0, 2, 1)
    return np.concatenate([rotations, -rotations @ poses[:, :3, 3:]], axis=2)


def from_world_to_camera_opengl(matrix: np.ndarray) -> np.ndarray:
    """World-to-camera [3, 4] -> camera-to-world [4, 4], of the same camera axes."""
    rotation = matrix[:3, :3].T
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ matrix[:3, 3]
    return pose
