"""Which views are made from which, and with which weights: what holds for any inputs and any poses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.compose import composed
from core.errors import BadCamera
from core.fitting.fit import learning_rate
from core.settings import settings
from projects.viewfusion.asked import check_distinct
from projects.viewfusion.fusion import Blending, circle_plan, free_plan, path_plan, separate_plan, weights_of
from projects.viewfusion.poses import circle_offsets, from_degrees, from_poses, relative, to_degrees, to_poses
from tests.golden_fixture import load

POSE = st.tuples(st.floats(0.05, 3.0), st.floats(-3.1, 3.1), st.floats(1.1, 3.0))
POSES = st.lists(POSE, min_size=1, max_size=4)


def spherical(poses):
    return torch.tensor(poses, dtype=torch.float64)


def sound(steps, inputs):
    """Only inputs and earlier views are references, each once; weights are shares; poses are the references'."""
    known = torch.cat([inputs, *(step.target[None] for step in steps)])
    for number, step in enumerate(steps):
        references = list(step.references)
        assert references == sorted(set(references)) and references[-1] < len(inputs) + number
        assert set(range(len(inputs))) <= set(references)  # inputs always count
        assert (step.weights >= 0).all() and step.weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert_close(step.poses, relative(step.target.expand(len(references), 3), known[references]).float())


@given(POSES, POSES, st.one_of(st.none(), st.floats(5, 90)))
def test_any_targets_from_any_inputs_have_a_sound_plan(inputs, targets, step_deg):
    inputs, targets = spherical(inputs), spherical(targets)
    steps, made = free_plan(inputs, targets, step_deg=step_deg)
    sound(steps, inputs)
    assert sum(step.wanted for step in steps) == len(targets) == len(set(made))
    for target, number in zip(targets, made, strict=True):
        assert steps[number].wanted and torch.equal(steps[number].target, target)
    if step_deg is None:
        assert len(steps) == len(targets)


@given(POSES, st.integers(1, 12))
def test_a_circle_of_any_size_from_any_inputs_has_a_sound_plan(inputs, num_views):
    inputs = spherical(inputs)
    steps = circle_plan(inputs, num_views)
    sound(steps, inputs)
    turns = torch.tensor([0.0, *(step.target[1] - inputs[0, 1] for step in steps)], dtype=torch.float64)
    expected = torch.arange(num_views) * (2 * math.pi / num_views)
    assert_close((turns + 1e-9).remainder(2 * math.pi).sort().values, expected + 1e-9, check_dtype=False)


@pytest.mark.parametrize("num_views", [2, 3, 4, 5])
def test_small_circles_fall_back_to_the_input_where_the_official_code_fails(num_views):
    steps = circle_plan(torch.zeros(1, 3), num_views)
    alone = [step for step in steps if len(step.references) == 1]
    assert alone and all(step.weights.tolist() == [1.0] for step in alone)


def test_a_target_that_differs_in_radius_alone_is_made_in_one_step():
    """The official code makes none."""
    [step] = path_plan(torch.tensor([1.0, 0.5, 1.5]), torch.tensor([0.0, 0.0, 0.4]))
    assert step.weights.tolist() == [1.0] and step.wanted
    assert_close(step.poses, torch.tensor([[0.0, 0.0, 1.0, 0.4]]))


def test_views_at_the_windows_edge_are_outside_whatever_the_rounding():
    steps = circle_plan(torch.zeros(1, 3, dtype=torch.float64), 72)  # 125 degrees are 25 steps of 5
    known = torch.cat([torch.zeros(1), circle_offsets(72)])
    for step in steps:
        angles = torch.rad2deg((step.target[1] - known[list(step.references)[1:]]).abs())
        assert (torch.minimum(angles, 360 - angles) < 124).all()


def test_inputs_lose_weight_as_the_temperature_says_and_generated_views_share_the_rest():
    offsets, generated = torch.tensor([1.0]), torch.tensor([0.5, 2.0])
    w = weights_of(offsets, generated, 0.3, Blending(inference_temp=0.5, auto_temp=0.1))
    assert w[0].item() == pytest.approx(math.exp(-0.6))
    assert (w[1] / w[2]).item() == pytest.approx(math.exp((1 - 0.25) / 0.1), rel=1e-4)
    assert weights_of(offsets, generated[:0], 0.3, Blending()).tolist() == [1.0]


def test_inputs_that_differ_in_radius_alone_share_evenly_straight_ahead():
    inputs = spherical([(1.0, 0.0, 1.5), (1.0, 0.0, 2.0)])
    [step], _ = free_plan(inputs, spherical([(1.0, 0.0, 1.8)]))
    assert_close(step.weights, torch.tensor([0.5, 0.5]))


def test_targets_made_alone_know_nothing_of_each_other():
    inputs, targets = spherical([(1.0, 0.0, 1.5)]), spherical([(1.0, 0.5, 1.5), (1.2, -2.0, 1.6)])
    steps, made = separate_plan(inputs, targets, step_deg=10.0)
    sound(steps, inputs)
    second = steps[made[0] + 1 :]
    single = free_plan(inputs, targets[1:], step_deg=10.0)[0]
    assert len(second) == len(single)
    for step, expected in zip(second, single, strict=True):
        assert all(r == 0 or r > made[0] + 1 for r in step.references)
        assert_close(step.weights, expected.weights)
        assert_close(step.poses, expected.poses)


@given(POSES)
def test_poses_survive_the_ways_to_write_them(poses):
    poses = spherical(poses)
    assert_close(from_poses(to_poses(poses), where="a test"), poses)
    again = from_degrees(to_degrees(poses))
    assert_close(to_poses(again), to_poses(poses), rtol=0, atol=1e-4)


def test_a_camera_straight_above_keeps_its_azimuth():
    poses = spherical([(0.0, 0.7, 1.5), (math.pi, -2.0, 1.5)])
    assert_close(from_poses(to_poses(poses), where="a test"), poses)


def test_the_rig_of_the_reconstruction_has_the_official_cameras():
    _, data = load("viewfusion", "neus_spin36_poses")
    cameras = rig("viewfusion", size=round(2 * data["K"][0, 2].item()), num_views=len(data["poses"]))
    assert_close(cameras.world_to_camera[:, :3], data["poses"], rtol=0, atol=1e-5)
    assert_close(cameras.intrinsics, data["K"].expand(len(cameras), 3, 3), rtol=0, atol=1e-4)


def test_the_reconstruction_has_the_official_settings():
    from projects.benchmark.reconstruct import main  # a program of another project: its settings alone are asked for

    cfg = settings(main.program, composed(main.program, ["views=x", "method=neus", "preset=viewfusion"]))
    assert (cfg.fit.steps, cfg.fit.lr, cfg.fit.num_random, cfg.fit.num_foreground) == (2000, 5e-4, 3584, 512)
    assert (cfg.field.num_coarse, cfg.field.num_fine, cfg.field.num_rounds, cfg.field.anneal_steps) == (64, 64, 4, 200)
    assert (cfg.field.rgb_weight, cfg.field.mask_weight, cfg.field.eikonal_weight) == (0.5, 1.0, 0.1)
    assert (cfg.field.sdf.num_layers, cfg.field.sdf.hidden_dim, list(cfg.field.sdf.skip_layers)) == (8, 256, [4])
    assert (cfg.mesh.resolution, cfg.field.bound, cfg.turntable.num_frames, cfg.turntable.fps) == (512, 0.6, 180, 30)
    rates = [
        learning_rate(step, steps=cfg.fit.steps, warmup=cfg.fit.warmup, final=cfg.fit.decay, every=cfg.fit.decay_every)
        for step in (0, 50, 100, 999, 1000, 1999)
    ]
    assert rates == pytest.approx([0.02, 0.51, 1, 1, 0.02**0.5, 0.02**0.5])


@given(POSES, st.integers(0, 3), st.floats(-1, 1), st.booleans())
def test_equal_poses_are_found_wherever_they_stand_and_only_those(poses, number, turns, away):
    listed = to_degrees(spherical([(0.7, 0.1 + k, 1.5 + k) for k in range(3)]))
    azimuth, elevation, radius = to_degrees(spherical(poses))[0]
    again = [azimuth + 360 * round(turns) + (1.0 if away else 1e-7 * turns), elevation, radius]
    listed.insert(number, [azimuth, elevation, radius])
    if not away:
        with pytest.raises(BadCamera, match=f"poses {number} and 4 are the same"):
            check_distinct([*listed, again], where="a test")
    else:
        check_distinct([*listed, again], where="a test")
