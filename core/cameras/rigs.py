"""Named rigs: the exact cameras of each official model, for any image size.

`rig(name, size=...)` gives `Cameras`; `RIGS` lists the names. All stand on spheres around the origin and face it.
"""

import inspect
import math
from collections.abc import Callable

import torch

from core.cameras.poses import orbit, swap_world_up
from core.errors import BadRequest
from core.types import Cameras

# A 35 mm lens on a 32 mm sensor (Blender, as used by Zero-1-to-3 and SyncDreamer): 280 pixels at 256, 49.13 degrees.
BLENDER_FOCAL = 35.0 / 32.0


def intrinsics(focal: float, size: int) -> torch.Tensor:
    """Square pinhole [3, 3]; `focal` in units of the image side, the principal point at its middle."""
    return torch.tensor([[focal * size, 0.0, size / 2], [0.0, focal * size, size / 2], [0.0, 0.0, 1.0]])


def focal_from_fov(fov_rad: float) -> float:
    """Focal length in units of the image side."""
    return 0.5 / math.tan(fov_rad / 2)


def ring(azimuths: torch.Tensor, elevation_rad: float, distance: float, focal: float, size: int) -> Cameras:
    """Cameras at one elevation and distance."""
    poses = orbit(azimuths, torch.full_like(azimuths, elevation_rad), torch.full_like(azimuths, distance))
    return Cameras(poses.float(), intrinsics(focal, size).expand(len(azimuths), 3, 3), size, size)


def _turn(num_views: int, start_rad: float = 0.0, span_rad: float = 2 * math.pi) -> torch.Tensor:
    return start_rad + torch.arange(num_views, dtype=torch.float64) * (span_rad / num_views)


def syncdreamer(*, size: int, num_views: int = 16, elevation_deg: float = 30.0, distance: float = 1.5) -> Cameras:
    """SyncDreamer's 16 target cameras: every 22.5 degrees, 30 degrees high, at distance 1.5."""
    return ring(_turn(num_views), math.radians(elevation_deg), distance, BLENDER_FOCAL, size)


def syncdreamer_input(
    *,
    size: int,
    num_views: int = 16,
    seed: int = 0,
    elevation_deg: tuple[float, float] = (-10.0, 40.0),
    distance: float = 1.5,
) -> Cameras:
    """SyncDreamer's input views: the targets' azimuths, each at an elevation uniform in a range."""
    draws = torch.rand(num_views, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = (math.radians(angle) for angle in elevation_deg)
    azimuths = _turn(num_views)
    poses = orbit(azimuths, low + (high - low) * draws, torch.full_like(azimuths, distance)).float()
    return Cameras(poses, intrinsics(BLENDER_FOCAL, size).expand(num_views, 3, 3), size, size)


def circle(*, size: int, num_views: int = 36, elevation_deg: float = 0.0, distance: float = 1.5) -> Cameras:
    """An even circle with Zero-1-to-3's lens (ViewFusion's spins, turntables)."""
    return ring(_turn(num_views), math.radians(elevation_deg), distance, BLENDER_FOCAL, size)


def viewfusion(*, size: int, num_views: int = 36, elevation_deg: float = 30.0, distance: float = 1.5) -> Cameras:
    """ViewFusion's circle as its reconstruction takes it: every 10 degrees, 30 degrees high, at distance 1.5."""
    return ring(_turn(num_views), math.radians(elevation_deg), distance, BLENDER_FOCAL, size)


def zero123(*, size: int, num_views: int = 12, seed: int = 0) -> Cameras:
    """Zero-1-to-3's renderings: a direction from the cube [-1, 1]^3 (so not quite uniform), radius in [1.5, 2.2]."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.rand(num_views, 3, generator=generator, dtype=torch.float64) * 2 - 1
    distances = 1.5 + 0.7 * torch.rand(num_views, generator=generator, dtype=torch.float64)
    azimuths = torch.atan2(direction[:, 1], direction[:, 0])
    elevations = torch.atan2(direction[:, 2], direction[:, :2].norm(dim=-1))
    cameras = orbit(azimuths, elevations, distances).float()
    return Cameras(cameras, intrinsics(BLENDER_FOCAL, size).expand(num_views, 3, 3), size, size)


def mvdream(
    *,
    size: int,
    num_views: int = 4,
    elevation_deg: float = 15.0,
    azimuth_deg: float = 90.0,
    span_deg: float = 360.0,
    distance: float = 1.5,
) -> Cameras:
    """MVDream's evenly spaced views, from its azimuth, whose 90 is +x here, over a span without its end.

    It reads directions: lens and distance are ours.
    """
    azimuths = _turn(num_views, math.radians(azimuth_deg - 90.0), math.radians(span_deg))
    return ring(azimuths, math.radians(elevation_deg), distance, BLENDER_FOCAL, size)


def ouroboros(*, size: int) -> Cameras:
    """Ouroboros3D's 8 inference cameras, turned from its y-up world; the last stands at 337.5 degrees, not 315."""
    azimuths = torch.tensor([0.0, 45.0, 90.0, 135.0, 180.0, 225.0, 270.0, 337.5], dtype=torch.float64)
    a, zero, one = torch.deg2rad(azimuths), torch.zeros(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    distance = 1.741696835
    rows = [
        [a.cos(), zero, -a.sin(), distance * a.sin()],
        [zero, -one, zero, zero],
        [-a.sin(), zero, -a.cos(), distance * a.cos()],
        [zero, zero, zero, one],
    ]
    poses = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    poses = swap_world_up(poses, y_up_to_z_up=True).float()
    return Cameras(poses, intrinsics(focal_from_fov(0.6911111), size).expand(8, 3, 3), size, size)


def zero123plus(*, size: int, distance: float = 2.4) -> Cameras:
    """Zero123++ v1.2's 6 views: azimuth 30 + 60 k degrees from the input's (here 0), elevation 20 and -10 in turn.

    Its field of view is 30 degrees. The distance is ours: it shows as much as Zero-1-to-3's lens shows from 1.5.
    """
    azimuths = _turn(6, math.radians(30.0))
    elevations = torch.deg2rad(torch.tensor([20.0, -10.0], dtype=torch.float64)).repeat(3)
    poses = orbit(azimuths, elevations, torch.full_like(azimuths, distance)).float()
    return Cameras(poses, intrinsics(focal_from_fov(math.radians(30.0)), size).expand(6, 3, 3), size, size)


def random(
    *,
    size: int,
    num_views: int = 16,
    seed: int = 0,
    elevation_deg: tuple[float, float] = (-10.0, 40.0),
    distance: tuple[float, float] = (1.5, 1.5),
) -> Cameras:
    """Azimuth all around, elevation and distance uniform in their ranges."""
    draws = torch.rand(3, num_views, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = (math.radians(angle) for angle in elevation_deg)
    poses = orbit(
        2 * math.pi * draws[0], low + (high - low) * draws[1], distance[0] + (distance[1] - distance[0]) * draws[2]
    )
    return Cameras(poses.float(), intrinsics(BLENDER_FOCAL, size).expand(num_views, 3, 3), size, size)


RIGS: dict[str, Callable[..., Cameras]] = {
    "syncdreamer": syncdreamer,
    "syncdreamer_input": syncdreamer_input,
    "orbit": circle,
    "viewfusion": viewfusion,
    "zero123": zero123,
    "zero123plus": zero123plus,
    "mvdream": mvdream,
    "ouroboros": ouroboros,
    "random": random,
}


def rig(name: str, *, size: int, **options) -> Cameras:
    """The cameras of a named rig for square images of `size` pixels; BadRequest for an unknown name or option."""
    if name not in RIGS:
        raise BadRequest(f"unknown rig {name!r}; choose one of {', '.join(sorted(RIGS))}")
    known = [key for key in inspect.signature(RIGS[name]).parameters if key != "size"]
    unread = sorted(options.keys() - set(known))
    if unread:
        reads = f"it reads {', '.join(known)}" if known else "its cameras are fixed"
        raise BadRequest(f"rig {name!r} does not read {', '.join(unread)}; {reads}")
    return RIGS[name](size=size, **options)
