"""Camera poses.

World: right-handed, z up. Camera: x right, y down, z forward (OpenCV). Poses are camera-to-world, 4x4.
Angles are radians. Azimuth 0 stands on +x, a quarter turn on +y; elevation is the height above the horizon.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.errors import BadCamera

WORLD_UP = (0.0, 0.0, 1.0)


def look_at(
    eye: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"], up: Float[Tensor, "*#batch 3"] | None = None
) -> Float[Tensor, "*batch 4 4"]:
    """Pose at `eye`, facing `target`, with the image's vertical axis in the plane of `up` (world z by default).

    Looking straight along `up` leaves the roll undefined: the camera's right is then world y turned into the plane.
    """
    up = eye.new_tensor(WORLD_UP) if up is None else up
    forward = F.normalize(target - eye, dim=-1)
    right = torch.linalg.cross(forward, up.expand_as(forward))
    degenerate = right.norm(dim=-1, keepdim=True) < 1e-6
    right = F.normalize(torch.where(degenerate, right.new_tensor([0.0, 1.0, 0.0]).expand_as(right), right), dim=-1)
    down = torch.linalg.cross(forward, right)
    rotation_and_origin = torch.stack([right, down, forward, eye], dim=-1)
    bottom = eye.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*eye.shape[:-1], 1, 4)
    return torch.cat([rotation_and_origin, bottom], dim=-2)


def orbit(
    azimuths: Float[Tensor, "*batch"], elevations: Float[Tensor, "*batch"], distances: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 4 4"]:
    """Poses on spheres around the origin, facing it; the closed form has no singularity at the poles."""
    sin_a, cos_a = torch.sin(azimuths), torch.cos(azimuths)
    sin_e, cos_e = torch.sin(elevations), torch.cos(elevations)
    zero = torch.zeros_like(sin_a)
    right = torch.stack([-sin_a, cos_a, zero], dim=-1)
    down = torch.stack([sin_e * cos_a, sin_e * sin_a, -cos_e], dim=-1)
    forward = torch.stack([-cos_e * cos_a, -cos_e * sin_a, -sin_e], dim=-1)
    center = -forward * distances[..., None]
    rotation_and_origin = torch.stack([right, down, forward, center], dim=-1)
    bottom = azimuths.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*azimuths.shape, 1, 4)
    return torch.cat([rotation_and_origin, bottom], dim=-2)


def spherical(
    centers: Float[Tensor, "*batch 3"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Azimuth in (-pi, pi], elevation in [-pi/2, pi/2] and distance of camera centres."""
    x, y, z = centers.unbind(-1)
    return torch.atan2(y, x), torch.atan2(z, torch.hypot(x, y)), centers.norm(dim=-1)


def to_opengl(poses: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """OpenCV camera axes -> OpenGL / Blender / nerfstudio ones (x right, y up, z backward); the world stays."""
    return poses * poses.new_tensor([1.0, -1.0, -1.0, 1.0])


def from_opengl(poses: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """The inverse of `to_opengl`, which is its own inverse."""
    return to_opengl(poses)


def from_world_to_camera(matrices: Float[Tensor, "*batch r 4"]) -> Float[Tensor, "*batch 4 4"]:
    """World-to-camera [R|t], 3x4 or 4x4 (COLMAP, SyncDreamer, Zero-1-to-3) -> camera-to-world."""
    rotation = matrices[..., :3, :3].transpose(-1, -2)
    center = -rotation @ matrices[..., :3, 3:]
    bottom = matrices.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*matrices.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, center], dim=-1), bottom], dim=-2)


def swap_world_up(poses: Float[Tensor, "*batch 4 4"], *, y_up_to_z_up: bool) -> Float[Tensor, "*batch 4 4"]:
    """Turn the world a quarter about x: y-up (OpenGL, glTF) (x, y, z) -> z-up (x, -z, y), or back. Camera axes stay."""
    turn = poses.new_tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    return (turn if y_up_to_z_up else turn.T) @ poses


def check_poses(poses: Float[Tensor, "views 4 4"], *, where: str, tolerance: float = 1e-3) -> None:
    """Raise BadCamera, naming the view's index, unless every pose is a finite rigid motion."""
    identity = torch.eye(3, dtype=torch.float64)
    for index, pose in enumerate(poses.detach().cpu().double()):
        rotation = pose[:3, :3]
        if not torch.isfinite(pose).all():
            fault = "contains NaN or infinity"
        elif (pose[3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().max() > tolerance:
            fault = f"has the last row {[round(v, 4) for v in pose[3].tolist()]} instead of [0, 0, 0, 1]"
        elif (rotation.T @ rotation - identity).abs().max() > tolerance:
            fault = f"is no rotation (column lengths {[round(v, 4) for v in rotation.norm(dim=0).tolist()]})"
        elif torch.linalg.det(rotation) < 0:
            fault = "mirrors space (determinant -1: wrong handedness)"
        else:
            continue
        raise BadCamera(f"{where}: the pose of view {index} {fault}; give a camera-to-world rotation and translation")
