"""Cameras as MVDream reads them: evenly spaced directions, and 16 numbers for each.

Angles are radians here. MVDream counts its azimuth from -y (its 90 degrees, whence the front is seen, are our +x).
Only rotation and direction enter: the model knows neither field of view nor distance.
"""

import math

from jaxtyping import Float
from torch import Tensor

from core.cameras.embeddings import camera_matrix_embedding
from core.cameras.rigs import mvdream

CAMERA_DIM = 16


def condition(poses: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 16"]:
    """What the model reads of camera-to-world poses (OpenCV axes, z up).

    The row-major matrix with OpenGL's camera axes, its translation divided by its length (plus 1e-8). The published
    function also changes the matrices that it is given; this one does not.
    """
    return camera_matrix_embedding(poses)


def view_poses(
    num_views: int,
    *,
    elevation: float = math.radians(15),
    azimuth: float = math.radians(90),
    span: float = 2 * math.pi,
) -> Float[Tensor, "num_views 4 4"]:
    """Camera-to-world poses on the unit sphere, facing the origin: the official `get_camera`, where z is up.

    The rig `mvdream` has them with a lens, farther away.

    Args:
        azimuth: of the first view, as MVDream counts it.
        span: views divide it evenly, its end left out: view i stands at azimuth + i span / num_views.
    """
    degrees = {"elevation_deg": elevation, "azimuth_deg": azimuth, "span_deg": span}
    angles = {name: math.degrees(angle) for name, angle in degrees.items()}
    return mvdream(size=1, num_views=num_views, distance=1.0, **angles).poses
