"""Cameras of scenes against the official ones, driven by the fixture alone."""

import random

import pytest
import torch
from torch.testing import assert_close

from core.cameras.poses import check_poses
from core.errors import BadConfig
from core.training.randomness import generator
from projects.mvdream_sds.scene.cameras import OrbitCameras, RandomCameras
from projects.mvdream_sds.scene.draws import Seeded, Upstream
from projects.mvdream_sds.scene.scene_views import SceneViews
from tests.golden_fixture import load

INFO, DATA = load("mvdream_sds", "random_camera")
CASES = {case["tag"]: case for case in INFO["cases"]}
NAMES = {
    "n_view": "num_views",
    "camera_distance_range": "distance_range",
    "relative_radius": "relative_distance",
    "light_sample_strategy": "light_strategy",
}
OF_EVALUATION = ("n_val_views", "eval_camera_distance", "eval_fovy_deg")


def _cameras(config: dict) -> RandomCameras:
    given = {NAMES.get(name, name): value for name, value in config.items() if name not in OF_EVALUATION}
    return RandomCameras(**given, degenerate_start=True)


def _draw(tag: str) -> SceneViews:
    case = CASES[tag]
    random.seed(case["seed"])
    torch.manual_seed(case["seed"])
    return _cameras(case["config"]).draw(case["step"], Upstream())


@pytest.mark.parametrize("tag", CASES)
def test_random_views_are_the_official_ones(tag):
    views, case = _draw(tag), CASES[tag]
    rays = views.rays
    assert rays.origins.shape[:3] == (case["batch"], case["height"], case["width"])
    found = {
        "c2w": views.opengl_poses,
        "rays_o": rays.origins[:, ::3, ::3],
        "rays_d": rays.directions[:, ::3, ::3],
        "mvp_mtx": views.clip_matrices,
        "camera_positions": views.cameras.centers,
        "light_positions": views.light_positions,
        "elevation": views.elevation_deg,
        "azimuth": views.azimuth_deg,
        "camera_distances": views.distance,
        "fovy": views.fovy_deg,
    }
    for name, value in found.items():
        wanted = DATA[f"{tag}_{name}"]
        scale = max(1.0, wanted.abs().max().item())
        assert (value - wanted).abs().max().item() < 1e-5 * scale, name


@pytest.mark.parametrize("kind", ["val", "test"])
def test_evaluation_views_are_the_official_ones(kind):
    config, meaning = INFO["cases"][0]["config"], INFO["tensors"][f"{kind}_c2w"]["meaning"]
    elevation = float(meaning.split("elevation ")[1].split()[0])
    height, width, _ = DATA[f"{kind}_rays_d0"].shape
    orbit = OrbitCameras(
        width=width,
        height=height,
        num_views=len(DATA[f"{kind}_c2w"]),
        elevation_deg=elevation,
        distance=config["eval_camera_distance"],
        fovy_deg=config["eval_fovy_deg"],
        repeat_first=kind == "test",
    )
    views = orbit.views()
    assert_close(views.opengl_poses, DATA[f"{kind}_c2w"], atol=1e-5, rtol=0)
    assert_close(views.azimuth_deg, DATA[f"{kind}_azimuth"], atol=1e-4, rtol=0)
    assert_close(views.light_positions, DATA[f"{kind}_light"], atol=1e-5, rtol=0)
    assert_close(views.clip_matrices[0], DATA[f"{kind}_mvp0"], atol=1e-4, rtol=0)
    assert_close(views.rays.directions[0], DATA[f"{kind}_rays_d0"], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_many_draws_have_the_official_statistics():
    config = next(case["config"] for tag, case in CASES.items() if tag.startswith("step1_"))
    cameras = RandomCameras(**{NAMES.get(n, n): v for n, v in config.items() if n not in OF_EVALUATION})
    drawn = [cameras.draw(1, Seeded(generator(0, step))) for step in range(300)]
    official = INFO["statistics_1500_batches"]
    for name, field in {"elevation": "elevation_deg", "fovy": "fovy_deg", "camera_distances": "distance"}.items():
        values, wanted = torch.cat([getattr(views, field) for views in drawn]), official[name]
        assert values.mean().item() == pytest.approx(wanted["mean"], abs=0.1 * wanted["std"])
        assert values.std().item() == pytest.approx(wanted["std"], rel=0.1)
    light = torch.cat([views.light_positions.norm(dim=-1) for views in drawn])
    assert light.mean().item() == pytest.approx(official["light_dist"]["mean"], abs=0.03)


def test_views_are_a_function_of_seed_and_step_and_stand_around_the_scene():
    cameras = RandomCameras(batch_size=8, width=6, height=4, resolution_milestones=(), degenerate_start=False)
    first, again, other = (cameras.draw(0, Seeded(generator(1, step))) for step in (5, 5, 6))
    assert torch.equal(first.cameras.poses, again.cameras.poses)
    assert not torch.equal(first.cameras.poses, other.cameras.poses)
    check_poses(first.cameras.poses, where="drawn")
    turns = first.azimuth_deg.view(2, 4).diff(dim=1)
    assert_close(turns, torch.full((2, 3), 90.0), atol=1e-3, rtol=0)  # also at step 0, unlike upstream


def test_a_sphere_that_is_meant_reaches_the_whole_range():
    options = {"batch_size": 400, "width": 2, "height": 2, "resolution_milestones": ()}
    for linear, highest in ((True, 19.6), (False, 30.0)):
        cameras = RandomCameras(**options, linear_sphere=linear)
        branch = [cameras.draw(1, Seeded(generator(0, step))).elevation_deg for step in range(12)]
        sphere = [e for step, e in enumerate(branch) if Seeded(generator(0, step)).coin() >= 0.5]
        assert max(e.max().item() for e in sphere) == pytest.approx(highest, abs=0.7)


def test_the_resolution_follows_its_milestones():
    cameras = RandomCameras(width=[4, 8], height=[4, 8], batch_size=[8, 4], resolution_milestones=[10])
    sizes = [cameras.draw(step, Seeded(generator(0, step))).rays.origins.shape for step in (0, 9, 10, 999)]
    assert [tuple(size[:3]) for size in sizes] == [(8, 4, 4), (8, 4, 4), (4, 8, 8), (4, 8, 8)]


def test_an_orbit_of_ours_has_no_view_twice():
    poses = OrbitCameras(num_views=5, width=2, height=2).views().cameras.poses
    assert torch.cdist(poses.flatten(1), poses.flatten(1)).fill_diagonal_(9).min() > 0.1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batch_size": 6}, "batch_size=6"),
        ({"width": [64]}, "width"),
        ({"fovy_range": [60.0, 15.0]}, "fovy_range"),
        ({"elevation_range": [0.0, 120.0]}, "elevation_range"),
        ({"distance_range": [0.0, 1.0]}, "distance_range"),
        ({"resolution_milestones": [5, 5], "width": 4, "height": 4, "batch_size": 4}, "resolution_milestones"),
    ],
)
def test_settings_that_make_no_cameras_are_refused_by_name(options, named):
    with pytest.raises(BadConfig, match=named):
        RandomCameras(**options)
