"""Cameras that look at a scene: random ones, several around each scene at once, to learn from; an orbit to show it.

World: z up; azimuth 0 stands on +x. Poses are core's (OpenCV camera axes). Angles named `_deg` are degrees, as the
settings are.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import look_at, orbit
from core.config import number, one_of, whole
from core.errors import BadConfig
from projects.mvdream_sds.scene.draws import Draws
from projects.mvdream_sds.scene.scene_views import SceneViews, pinhole

Range = Sequence[float | int]
PerStage = int | Sequence[int]


class RandomCameras:
    """The cameras of a training step: `num_views` around each scene, evenly spaced from a random azimuth on."""

    def __init__(
        self,
        *,
        num_views: int = 4,
        batch_size: PerStage = (8, 4),
        width: PerStage = (64, 256),
        height: PerStage = (64, 256),
        resolution_milestones: Sequence[int] = (5000,),
        elevation_range: Range = (0.0, 30.0),
        azimuth_range: Range = (-180.0, 180.0),
        distance_range: Range = (0.8, 1.0),
        relative_distance: bool = True,
        fovy_range: Range = (15.0, 60.0),
        zoom_range: Range = (1.0, 1.0),
        camera_perturb: float = 0.0,
        center_perturb: float = 0.0,
        up_perturb: float = 0.0,
        light_position_perturb: float = 1.0,
        light_distance_range: Range = (0.8, 1.5),
        light_strategy: Literal["dreamfusion", "magic3d"] = "dreamfusion",
        progressive_until: int = 0,
        progressive_elevation: float = 15.0,
        linear_sphere: bool = True,
        degenerate_start: bool = False,
        published_magic3d: bool = True,
    ) -> None:
        """
        Args:
            batch_size: views of a step, a multiple of num_views; it, `width` and `height` are numbers, or one for each
                stage of the training, where resolution_milestones are the steps at which the next stage begins.
            relative_distance: the distance is in units of what makes the cube's half fill the view: it is divided by
                tan(fovy / 2).
            zoom_range: narrows the field of view after the distance is fixed.
            camera_perturb, center_perturb, up_perturb: uniform (the first) and normal shifts of the eye, the target and
                the up direction, one for all views of a scene.
            light_strategy: near the camera, or (`magic3d`) in a frame that follows it.
            progressive_until: the ranges of elevation and azimuth grow until this step, from `progressive_elevation`
                and 0.
            linear_sphere: half of the scenes are to be seen from points uniform on the sphere; the published rule takes
                elevations for percentiles there, and so never leaves [0, 19.5] degrees for a range of [0, 30]. False
                draws what is meant.
            degenerate_start: step 0 sees the same view `num_views` times, as published (progressive_until is off by
                one). False, the default here, gives it views like any other step.
            published_magic3d: its lights stand at azimuths of half a circle; false takes the whole one.

        Raises:
            BadConfig: numbers that make no cameras.
        """
        whole("cameras.num_views", num_views)
        whole("cameras.progressive_until", progressive_until, least=0)
        one_of("cameras.light_strategy", light_strategy, ("dreamfusion", "magic3d"))
        stages = len(resolution_milestones) + 1
        self.batch_size, self.width, self.height = (
            _per_stage(name, value, stages)
            for name, value in {"batch_size": batch_size, "width": width, "height": height}.items()
        )
        if sorted(set(resolution_milestones)) != list(resolution_milestones):
            raise BadConfig(f"cameras.resolution_milestones={list(resolution_milestones)}: expected growing steps")
        for size in self.batch_size:
            if size % num_views:
                raise BadConfig(f"cameras.batch_size={size}: expected a multiple of num_views={num_views}")
        self.resolution_milestones, self.num_views = list(resolution_milestones), num_views
        self.elevation_range = _range("elevation_range", elevation_range, -90, 90)
        self.azimuth_range = _range("azimuth_range", azimuth_range, -360, 360)
        self.distance_range = _range("distance_range", distance_range, 1e-3)
        self.fovy_range = _range("fovy_range", fovy_range, 0.1, 179)
        self.zoom_range = _range("zoom_range", zoom_range, 1e-3)
        self.light_distance_range = _range("light_distance_range", light_distance_range, 0)
        shifts = (camera_perturb, center_perturb, up_perturb, light_position_perturb)
        for name, value in zip(("camera", "center", "up", "light_position"), shifts, strict=True):
            number(f"cameras.{name}_perturb", value, 0)
        self.camera_perturb, self.center_perturb, self.up_perturb, self.light_position_perturb = shifts
        self.relative_distance, self.light_strategy = relative_distance, light_strategy
        self.progressive_until, self.progressive_elevation = progressive_until, progressive_elevation
        self.linear_sphere, self.degenerate_start = linear_sphere, degenerate_start
        self.published_magic3d = published_magic3d

    def stage(self, step: int) -> int:
        """Which of the resolutions training step `step` has."""
        return bisect_right(self.resolution_milestones, step)

    def draw(self, step: int, draws: Draws) -> SceneViews:
        """The views of a step; what is random comes from `draws`, in the published order."""
        stage, n = self.stage(step), self.num_views
        scenes = self.batch_size[stage] // n

        def of_scenes(values: Tensor) -> Tensor:
            return values.repeat_interleave(n, dim=0)

        def between(limits: Range) -> Tensor:
            return of_scenes(draws.uniform(scenes) * (limits[1] - limits[0]) + limits[0])

        elevations, azimuths = self._ranges(step)
        elevation = self._elevation(elevations, between, draws.coin())
        places = draws.uniform(scenes)[:, None] + torch.arange(n)
        azimuth_deg = places.reshape(-1) / n * (azimuths[1] - azimuths[0]) + azimuths[0]
        fovy_deg = between(self.fovy_range)
        distance = between(self.distance_range)
        if self.relative_distance:
            distance = distance / torch.tan(torch.deg2rad(fovy_deg) / 2)
        fovy_deg = fovy_deg * between(self.zoom_range)
        eyes = orbit(torch.deg2rad(azimuth_deg), elevation, distance)[:, :3, 3]
        eyes = eyes + of_scenes((draws.uniform(scenes, 3) * 2 - 1) * self.camera_perturb)
        centers = of_scenes(draws.normal(scenes, 3) * self.center_perturb)
        ups = eyes.new_tensor([0.0, 0.0, 1.0]) + of_scenes(draws.normal(scenes, 3) * self.up_perturb)
        lights = self._lights(eyes, between(self.light_distance_range), draws, of_scenes)
        cameras = pinhole(look_at(eyes, centers, ups), fovy_deg, self.width[stage], self.height[stage])
        return SceneViews(cameras, lights, torch.rad2deg(elevation), azimuth_deg, fovy_deg, distance)

    def _ranges(self, step: int) -> tuple[Range, Range]:
        """Of elevation and azimuth at a step, in degrees."""
        until = self.progressive_until + 1 if self.progressive_until or self.degenerate_start else 0
        part = min(1.0, step / until) if until else 1.0
        elevations = [(1 - part) * self.progressive_elevation + part * limit for limit in self.elevation_range]
        return elevations, [part * limit for limit in self.azimuth_range]

    def _elevation(self, limits: Range, between, coin: float) -> Float[Tensor, "views"]:
        if coin < 0.5:
            return torch.deg2rad(between(limits))
        if self.linear_sphere:
            # Quirk: a height on the sphere is a sine, but here the angle itself is taken for its share of the way up.
            shares = [(limit + 90) / 180 for limit in limits]
        else:
            shares = [(math.sin(math.radians(limit)) + 1) / 2 for limit in limits]
        return torch.asin((2 * between(shares) - 1).clamp(-1, 1))

    def _lights(self, eyes: Float[Tensor, "views 3"], distance: Float[Tensor, "views"], draws: Draws, of_scenes):
        scenes = len(eyes) // self.num_views
        if self.light_strategy == "dreamfusion":
            shifted = eyes + of_scenes(draws.normal(scenes, 3)) * self.light_position_perturb
            return F.normalize(shifted, dim=-1) * distance[:, None]
        z = F.normalize(eyes, dim=-1)
        x = F.normalize(torch.stack([z[:, 1], -z[:, 0], torch.zeros_like(z[:, 0])], dim=-1), dim=-1)
        frame = torch.stack([x, torch.linalg.cross(z, x), z], dim=-1)
        # Quirk: from -2 pi to -pi only.
        azimuth = of_scenes(draws.uniform(scenes) * (math.pi if self.published_magic3d else 2 * math.pi) - 2 * math.pi)
        elevation = of_scenes(draws.uniform(scenes) * (math.pi / 3) + math.pi / 6)
        local = orbit(azimuth, elevation, distance)[:, :3, 3]
        return (frame @ local[:, :, None])[:, :, 0]


class OrbitCameras:
    """A circle around the scene, lit from the camera, from azimuth 0 on."""

    def __init__(
        self,
        *,
        num_views: int = 120,
        elevation_deg: float = 15.0,
        distance: float = 3.0,
        fovy_deg: float = 40.0,
        width: int = 512,
        height: int = 512,
        repeat_first: bool = False,
    ) -> None:
        """
        Args:
            repeat_first: the last view is the first one again, as in the official videos; false spaces the views
                evenly around the circle, as the official validation does, so that a video loops smoothly.
        """
        for name, value in {"num_views": num_views, "width": width, "height": height}.items():
            whole(f"orbit.{name}", value)
        number("orbit.elevation_deg", elevation_deg, -90, 90)
        number("orbit.distance", distance, 0, above=True)
        number("orbit.fovy_deg", fovy_deg, 0.1, 179)
        self.num_views, self.elevation_deg, self.distance = num_views, elevation_deg, distance
        self.fovy_deg, self.width, self.height, self.repeat_first = fovy_deg, width, height, repeat_first

    def views(self) -> SceneViews:
        """All views of the circle."""
        count = self.num_views
        azimuth_deg = torch.linspace(0, 360, count) if self.repeat_first else torch.linspace(0, 360, count + 1)[:-1]
        elevation_deg, distance, fovy_deg = (
            torch.full((count,), float(value)) for value in (self.elevation_deg, self.distance, self.fovy_deg)
        )
        poses = orbit(torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg), distance)
        cameras = pinhole(poses, fovy_deg, self.width, self.height)
        return SceneViews(cameras, cameras.centers, elevation_deg, azimuth_deg, fovy_deg, distance)


def _per_stage(name: str, value: PerStage, stages: int) -> list[int]:
    values = [value] * stages if isinstance(value, int) else list(value)
    if len(values) != stages:
        raise BadConfig(f"cameras.{name}={values}: expected {stages} numbers, one more than resolution_milestones")
    for each in values:
        whole(f"cameras.{name}", each)
    return values


def _range(name: str, limits: Range, least: float | int, most: float | int = math.inf) -> tuple[float, float]:
    if len(limits) != 2 or limits[0] > limits[1]:
        raise BadConfig(f"cameras.{name}={list(limits)}: expected [low, high]")
    for each in limits:
        number(f"cameras.{name}", each, least, most)
    return float(limits[0]), float(limits[1])
