"""Poses, orders and weights equal the official scripts': fixtures that need no network."""

import math
import re

import pytest
import torch
from torch.testing import assert_close

from core.cameras.poses import from_opengl, from_world_to_camera
from projects.viewfusion.fusion import Blending, circle_plan, free_plan, path_plan
from projects.viewfusion.poses import from_poses, relative, to_poses, wrapped
from tests.golden_fixture import load


def exact(actual, expected, tolerance=1e-5):
    assert_close(actual, expected, rtol=0, atol=tolerance, check_dtype=False)


def same_steps(steps, data, prefix, weights, *, num_inputs=1):
    """A plan is the table of that name: its references in their order, weights and poses."""
    assert len(steps) == len(data[f"{prefix}nvalid"])
    for step, count, references, w, poses in zip(
        steps, data[f"{prefix}nvalid"], data[f"{prefix}ref"], data[weights], data[f"{prefix}T"], strict=True
    ):
        # The tables count inputs 0, -1, -2 ... and generated views from 1; a plan counts all from 0.
        official = [r - num_inputs + 1 if r >= num_inputs else -r for r in step.references]
        assert official == references[:count].tolist()
        exact(step.weights, w[:count])
        exact(step.poses, poses[:count], 2e-5)


def test_a_circles_plan_is_the_official_table_for_every_size_and_temperature():
    info, data = load("viewfusion", "weights_table")
    sizes = [int(match[1]) for name in data if (match := re.fullmatch(r"N(\d+)_nvalid", name))]
    assert sizes and info["temps"]
    for size in sizes:
        for number, (inference_temp, auto_temp) in enumerate(info["temps"]):
            steps = circle_plan(torch.zeros(1, 3), size, Blending(inference_temp, auto_temp))
            same_steps(steps, data, f"N{size}_", f"N{size}_temp{number}_w")


def test_a_single_targets_plan_is_the_official_table():
    _, data = load("viewfusion", "weights_table")
    prefixes = [name.removesuffix("angle_info") for name in data if name.endswith("_angle_info")]
    assert prefixes
    for prefix in prefixes:
        offset = data[f"{prefix}angle_info"].double()
        steps = path_plan(torch.zeros(3), offset)
        same_steps(steps, data, prefix, f"{prefix}w")
        # What a list of one pose gives is the same, though it turns the short way round from any input.
        start = torch.tensor([[1.2, 5.0, 1.7]], dtype=torch.float64)
        same_steps(free_plan(start, start + offset, step_deg=10.0)[0], data, prefix, f"{prefix}w")


def test_a_circle_from_several_inputs_is_the_official_table():
    _, data = load("viewfusion", "weights_table_multi")
    inputs = data["angle_info_list"]
    steps = circle_plan(inputs, len(data["nvalid"]) + 1)
    same_steps(steps, data, "", "w", num_inputs=len(inputs))


def test_relative_poses_of_world_to_camera_matrices():
    """Zero-1-to-3's files hold Blender's camera axes."""
    _, data = load("viewfusion", "zero123_pose_ccproj")
    target, condition = (
        from_poses(from_opengl(from_world_to_camera(data[name])), where="the fixture")
        for name in ("target_RT", "cond_RT")
    )
    exact(torch.stack([target, condition], dim=1), data["spherical"])
    exact(relative(target, condition), data["T"], 2e-5)
    exact(to_poses(target)[:, :3, 3], from_world_to_camera(data["target_RT"])[:, :3, 3])


def test_angle_files_become_offsets():
    info, data = load("viewfusion", "gso_pose")
    names = list(info["list_json"])
    assert len(data["angle_info"])
    for offset, target, reference, model in zip(
        *(data[key] for key in ("angle_info", "target_index", "inference_index", "model_id")), strict=True
    ):
        # The files hold [azimuth, polar, radius].
        angles = info["angles_json"][names[model]]
        start, end = (
            torch.tensor(angles[str(int(index))]["angle"], dtype=torch.float64)[[1, 0, 2]]
            for index in (reference, target)
        )
        change = end - start
        change[1] = wrapped(change[1])
        exact(change, offset, 2e-5)


@pytest.mark.parametrize("angle", [0.0, 3.0, math.pi, -math.pi, 3.5, -3.5, 7.0, -100.0])
def test_a_wrapped_angle_is_the_same_angle_short_of_half_a_turn(angle):
    found = wrapped(torch.tensor(angle, dtype=torch.float64)).item()
    assert -math.pi < found <= math.pi
    assert math.cos(found) == pytest.approx(math.cos(angle)) and math.sin(found) == pytest.approx(math.sin(angle))
