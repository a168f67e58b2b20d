"""What is asked for: the inputs' poses, the views' poses, and the plan that makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.rigs import RIGS
from core.config import whole
from core.errors import BadCamera
from projects.viewfusion.asked import DEFAULT, Pose, check_distinct
from projects.viewfusion.fusion import Blending, Step, circle_plan, free_plan, separate_plan
from projects.viewfusion.poses import from_degrees, named_poses, poses_of_file, to_degrees
from projects.viewfusion.settings import CIRCLE, CIRCLE_VIEWS, Settings, check_count, check_rig, is_file

TOLERANCE = 0.01  # of a distance: this much hardly shows


@dataclass(frozen=True)
class Request:
    """Posed inputs and wanted views.

    Args:
        inputs: poses, spherical, in the order of the images.
        targets: poses of the wanted views, in the order in which they are to be shown.
        steps: how they are made, some views in between among them.
        made: for each target the step that makes it; None for the first input itself.
        is_circle: the targets are an even circle through the first input, beginning there.
    """

    inputs: Float[Tensor, "k 3"]
    targets: Float[Tensor, "n 3"]
    steps: list[Step]
    made: list[int | None]
    is_circle: bool

    def key(self) -> dict[str, Any]:
        """What of it decides a result."""
        return {"inputs": to_degrees(self.inputs), "targets": to_degrees(self.targets), "circle": self.is_circle}


def make_request(cfg: Mapping[str, Any], num_images: int, settings: Settings) -> Request:
    """From the program's settings, which `settings.check` has seen; a UserError for poses that cannot be had."""
    inputs = input_poses(cfg["input_poses"], num_images, cfg["input"])
    blending = Blending(settings.inference_temp, settings.auto_temp, settings.window_deg)
    poses = cfg["poses"]
    if poses in (None, CIRCLE):
        num_views = CIRCLE_VIEWS if settings.num_views is None else settings.num_views
        return circle_request(inputs, num_views, blending)
    targets = target_poses(poses, settings.num_views)
    between = settings.way == "always" or (settings.way == "auto" and len(targets) == 1)
    if settings.fusion == "zero123":  # made from inputs alone, a view gains nothing from others on the way
        steps, made = free_plan(inputs, targets, blending)
    elif settings.way == "alone":
        steps, made = separate_plan(inputs, targets, blending, step_deg=settings.way_step_deg)
    else:
        steps, made = free_plan(inputs, targets, blending, step_deg=settings.way_step_deg if between else None)
    return Request(inputs, targets, steps, list(made), is_circle=False)


def circle_request(inputs: Float[Tensor, "k 3"], num_views: int, blending: Blending) -> Request:
    """An even circle from the first input, by azimuth; that input is its first view, as officially."""
    whole("num_views", num_views)
    steps = circle_plan(inputs, num_views, blending)
    turns = [(float(step.target[1] - inputs[0, 1]) % (2 * torch.pi), number) for number, step in enumerate(steps)]
    order = [number for _, number in sorted(turns)]
    targets = torch.stack([inputs[0], *(steps[number].target for number in order)])
    return Request(inputs, targets, steps, [None, *order], is_circle=True)


def input_poses(given: str | Sequence[Pose] | None, num_images: int, images: Any) -> Float[Tensor, "k 3"]:
    """The inputs' poses: as listed, or of a `transforms.json` in its order."""
    if isinstance(given, str):
        poses = poses_of_file(given, key="input_poses")
        check_count(num_images, len(poses), images)
        check_distinct(to_degrees(poses), where=f"input_poses={given!r}")
        return poses
    return from_degrees([DEFAULT] if given is None else given)


def target_poses(given: str | Sequence[Pose], num_views: int | None) -> Float[Tensor, "n 3"]:
    """The views' poses: as listed, of a `transforms.json` or of a rig."""
    if not isinstance(given, str):
        return from_degrees(given)
    if is_file(given) and given not in RIGS:
        poses = poses_of_file(given)
    else:
        check_rig(given, sorted(RIGS))
        poses = named_poses(given, num_views)
    check_distinct(to_degrees(poses), where=f"poses={given!r}")
    return poses


def check_distances(request: Request, known: Sequence[float] | None) -> None:
    """BadCamera for a pose farther or nearer than a model's training cameras (`Zero123.distances`)."""
    if known is None:
        return
    least, most = known
    for key, poses in (("input_poses", request.inputs), ("poses", request.targets)):
        for index, radius in enumerate(poses[:, 2].tolist()):
            if not least * (1 - TOLERANCE) <= radius <= most * (1 + TOLERANCE):
                wanted = f"{least:g}" if least == most else f"{least:g} to {most:g}"
                raise BadCamera(
                    f"{key}: pose {index} has the radius {radius:.4g}, but these weights were trained at {wanted} "
                    "only; give such a radius, or use published weights"
                )
