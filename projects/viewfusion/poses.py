"""Poses as Zero-1-to-3 knows them: cameras on spheres around the object, upright and facing it.

Spherical: `[polar, azimuth, radius]`, radians; the polar angle is counted from +z (0 is the top, pi / 2 the horizon).
Users give `[azimuth, elevation, radius]` in degrees, elevation above the horizon, as `core.cameras` counts it. World:
z up, the object inside the unit sphere.
"""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.embeddings import polar_embedding
from core.cameras.poses import orbit, spherical
from core.cameras.rigs import BLENDER_FOCAL, RIGS, intrinsics, rig
from core.errors import BadCamera, BadConfig
from core.types import Cameras
from core.views import read_poses
from projects.viewfusion.asked import Pose, check_radii

TURNED_DEG = 1.0  # a camera may be turned by so much against one that faces the origin upright


def from_degrees(poses: Sequence[Pose]) -> Float[Tensor, "n 3"]:
    """[azimuth, elevation, radius] in degrees -> spherical."""
    azimuth, elevation, radius = torch.tensor(poses, dtype=torch.float64).unbind(-1)
    return torch.stack([math.pi / 2 - torch.deg2rad(elevation), torch.deg2rad(azimuth), radius], dim=-1)


def to_degrees(poses: Float[Tensor, "n 3"]) -> list[list[float]]:
    """The inverse of `from_degrees`, azimuth in [0, 360), rounded for people."""
    polar, azimuth, radius = poses.double().unbind(-1)
    columns = [torch.rad2deg(azimuth) % 360, 90 - torch.rad2deg(polar), radius]
    return [[round(value, 4) for value in row] for row in torch.stack(columns, dim=-1).tolist()]


def to_poses(poses: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4 4"]:
    """Spherical -> camera-to-world."""
    polar, azimuth, radius = poses.unbind(-1)
    return orbit(azimuth, math.pi / 2 - polar, radius)


def to_cameras(poses: Float[Tensor, "n 3"], size: int) -> Cameras:
    """Spherical -> cameras with the lens that Zero-1-to-3 was trained with, for square images of `size` pixels."""
    return Cameras(to_poses(poses).float(), intrinsics(BLENDER_FOCAL, size).expand(len(poses), 3, 3), size, size)


def from_poses(poses: Float[Tensor, "n 4 4"], *, where: str) -> Float[Tensor, "n 3"]:
    """Camera-to-world -> spherical.

    Raises BadCamera, naming the view, for a camera in the object, or turned away from the origin or to a side: the
    relative pose cannot say so, and the views would be of other cameras.
    """
    poses = poses.double()
    azimuth, elevation, radius = spherical(poses[:, :3, 3])
    check_radii(radius.tolist(), where=where)
    # Straight above the object the azimuth is in the camera's roll alone: its right is (-sin a, cos a, 0).
    above = poses[:, :2, 3].norm(dim=-1) < 1e-6 * radius
    azimuth = torch.where(above, torch.atan2(-poses[:, 0, 0], poses[:, 1, 0]), azimuth)
    found = torch.stack([math.pi / 2 - elevation, azimuth, radius], dim=-1)
    between = to_poses(found)[:, :3, :3].transpose(1, 2) @ poses[:, :3, :3]
    cosine = (between.diagonal(dim1=1, dim2=2).sum(dim=-1) - 1) / 2
    for index, angle in enumerate(torch.rad2deg(cosine.clamp(-1, 1).acos()).tolist()):
        if angle > TURNED_DEG:
            raise BadCamera(
                f"{where}: view {index} is turned by {angle:.1f} degrees against a camera that faces the origin "
                "upright; Zero-1-to-3 knows only those: centre the object, and turn the cameras to it"
            )
    return found


def named_poses(name: str, num_views: int | None) -> Float[Tensor, "n 3"]:
    """The poses of a rig (`core.cameras.rigs`); the lens is not the rig's but the model's.

    Args:
        num_views: of a rig that has any number; None takes the rig's own.

    Raises BadConfig for a number that the rig cannot have.
    """
    free = "num_views" in inspect.signature(RIGS[name]).parameters
    if num_views is not None and not free:
        own = len(rig(name, size=1))
        raise BadConfig(f"num_views={num_views}: poses={name} has {own} views of its own; leave num_views away")
    options = {} if num_views is None else {"num_views": num_views}
    return from_poses(rig(name, size=1, **options).poses, where=f"poses={name}")


def poses_of_file(path: str | Path, *, key: str = "poses") -> Float[Tensor, "n 3"]:
    """The poses in a `transforms.json`, or in the view set of a folder; its images need not be there.

    Its lenses are not read: Zero-1-to-3 has one. `key` is the setting's name, for messages.
    """
    return from_poses(read_poses(path), where=f"{key}={str(path)!r}")


def relative(target: Float[Tensor, "*n 3"], reference: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 4"]:
    """The pose that Zero-1-to-3 reads: (d_polar, sin d_azimuth, cos d_azimuth, d_radius), target minus reference."""
    polar, azimuth, radius = (target - reference).unbind(-1)
    return polar_embedding(polar, azimuth, radius)


def wrapped(angle: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """The same angle in (-pi, pi]."""
    return math.pi - (math.pi - angle) % (2 * math.pi)


def circle_offsets(num_views: int) -> Float[Tensor, "n"]:
    """Azimuths of a circle's views beside the input, in the order in which they are made: to both sides in turn.

    +1, -1, +2, -2 ... steps of 2 pi / num_views, `num_views - 1` of them; a view opposite comes last, as +pi.
    """
    number = torch.arange(num_views - 1)
    steps = (number // 2 + 1) * (1 - 2 * (number % 2))
    return steps.double() * (2 * math.pi / num_views)


def circle(start: Float[Tensor, "3"], num_views: int) -> Float[Tensor, "n 3"]:
    """The poses of `circle_offsets` at the polar angle and radius of `start`."""
    offsets = circle_offsets(num_views)
    return start.double() + torch.stack([torch.zeros_like(offsets), offsets, torch.zeros_like(offsets)], dim=-1)


def difference(target: Float[Tensor, "3"], start: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """Target minus start, the azimuth the short way round."""
    polar, azimuth, radius = (target.double() - start.double()).unbind(-1)
    return torch.stack([polar, wrapped(azimuth), radius], dim=-1)


def path(start: Float[Tensor, "3"], offset: Float[Tensor, "3"], step_rad: float) -> Float[Tensor, "k 3"]:
    """Poses on the straight way (in angles and radius) to `start + offset`, which is the last of them.

    No two are farther apart than `step_rad` in azimuth or in polar angle. Where only the radius changes there is one,
    the target; the official code makes none then, and fails.
    """
    # A pi of single precision is 18 steps of 10 degrees, not 19.
    num_steps = max(1, *(math.ceil(abs(angle) / step_rad - 1e-6) for angle in offset[:2].tolist()))
    fractions = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    return start.double() + fractions[:, None] * offset.double()
