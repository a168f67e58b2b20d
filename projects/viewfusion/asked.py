"""Which poses a user may ask for: `[azimuth, elevation, radius]`, degrees and the unit of the object's unit sphere.

Loads no torch: what was typed is checked before anything is loaded.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from core.config import fits
from core.errors import BadCamera, BadConfig

Pose = Sequence[float | int]
NEAREST = 1.0  # the unit sphere holds the object
FARTHEST = 100.0  # where an object is less than a pixel
MOST_VIEWS = 1000  # each is made from many others: time and memory grow with the square
SAME = 1e-4  # positions nearer than this are one pose
DEFAULT = (0.0, 30.0, 1.5)  # where the camera of a single image is taken to stand
FORM = "[[azimuth, elevation, radius], ...] in degrees, e.g. [[0, 30, 1.5], [90, 30, 1.5]]"


def check_poses(key: str, poses: Any) -> None:
    """Refuse a typed list that holds no poses, or such as no view can have; `key` is the setting's name."""
    if not isinstance(poses, list | tuple) or not poses:
        raise BadConfig(f"{key}={poses}: expected at least one pose, {FORM}")
    for index, pose in enumerate(poses):
        numbers = isinstance(pose, list | tuple) and len(pose) == 3 and all(fits(value, float) for value in pose)
        if not numbers or not all(math.isfinite(value) for value in pose):
            raise BadConfig(f"{key}: pose {index} is {pose}; expected {FORM}")
        if not -90 <= pose[1] <= 90:
            raise BadConfig(f"{key}: pose {index} has the elevation {pose[1]:g}; give one from -90 to 90 degrees")
    check_radii([pose[2] for pose in poses], where=key)
    check_distinct(poses, where=key)


def check_radii(radii: Sequence[float | int], *, where: str) -> None:
    """BadCamera for a camera on the object, inside it or out of sight, naming the view; and for too many."""
    if len(radii) > MOST_VIEWS:
        raise BadCamera(f"{where}: {len(radii)} poses; give at most {MOST_VIEWS} at once")
    for index, radius in enumerate(radii):
        if not radius > NEAREST:
            raise BadCamera(
                f"{where}: pose {index} has the radius {radius:.4g}, on the object or inside it (the unit sphere); "
                f"give a radius above {NEAREST:g}"
            )
        if radius > FARTHEST:
            raise BadCamera(f"{where}: pose {index} has the radius {radius:.4g}; give one of at most {FARTHEST:g}")


def check_distinct(poses: Sequence[Pose], *, where: str) -> None:
    """BadCamera for two equal poses, naming both."""
    cells: dict[
        tuple[int, ...], tuple[int, tuple[float, ...]]
    ] = {}  # by cubes of side SAME: a file may hold many poses
    for index, pose in enumerate(poses):
        azimuth, elevation, radius = math.radians(pose[0]), math.radians(pose[1]), pose[2]
        level = radius * math.cos(elevation)
        place = (level * math.cos(azimuth), level * math.sin(azimuth), radius * math.sin(elevation))
        cell = tuple(math.floor(value / SAME) for value in place)
        for shift in itertools.product((-1, 0, 1), repeat=3):
            other = cells.get(tuple(a + b for a, b in zip(cell, shift, strict=True)))
            if other is not None and math.dist(place, other[1]) < SAME:
                raise BadCamera(
                    f"{where}: poses {other[0]} and {index} are the same (azimuth {pose[0]:g}, elevation {pose[1]:g}, "
                    f"radius {radius:g}); give each pose once"
                )
        cells[cell] = index, place
