"""The scene's renderer against the official one, driven by the fixtures alone."""

import re
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from core.training.randomness import generator
from core.types import Rays
from projects.mvdream_sds.scene.background import NeuralEnvironmentMap
from projects.mvdream_sds.scene.draws import Seeded
from projects.mvdream_sds.scene.losses import orient_loss
from projects.mvdream_sds.scene.marching import occupied_samples
from projects.mvdream_sds.scene.materials import Material, NoMaterial, PointLightMaterial
from projects.mvdream_sds.scene.occupancy import SceneOccupancy
from projects.mvdream_sds.scene.renderer import Rendered, VolumeRenderer
from projects.mvdream_sds.scene.scene import Scene
from tests.golden_fixture import load
from tests.projects.mvdream_sds.scene.scenes import geometry_of, official_gradients, scene_of

INFO, DATA = load("mvdream_sds", "renderer")
GRID, GRID_DATA = load("mvdream_sds", "occ_grid")
CASES = {case["name"]: case for case in INFO["cases"]}
RAYS = Rays(DATA["rays_o"], DATA["rays_d"])
PICTURES = {
    "rgb": "comp_rgb",
    "foreground": "comp_rgb_fg",
    "background": "comp_rgb_bg",
    "opacity": "opacity",
    "depth": "depth",
    "z_variance": "z_variance",
    "normal": "comp_normal",
}
PARTS = 1e-4  # of a picture's largest value


def _material(words: str) -> Material:
    """What the fixture calls "no-material" or "... ambient .3 diffuse .7"."""
    lights = {kind: [float(x)] * 3 for kind, x in re.findall(r"(ambient|diffuse) (\.\d+)", words)}
    if not lights:
        return NoMaterial()
    return PointLightMaterial(
        ambient_color=lights["ambient"], diffuse_color=lights["diffuse"], ambient_only_steps=0, soft_shading=False
    )


def _scene(name: str, **renderer: Any) -> Scene:
    case = CASES[name]
    material = _material(case["material"])
    occupancy = SceneOccupancy(resolution=len(DATA["binaries"]))
    options = {"num_samples_per_ray": case["num_samples_per_ray"], "randomized": False, **case["extra"], **renderer}
    scene = scene_of(
        geometry_of(INFO["geometry"], normal_type="analytic" if material.needs_normal else None),
        material=material,
        background=NeuralEnvironmentMap(random_aug=False),
        renderer=VolumeRenderer(occupancy=occupancy, **options),
    )
    # The stored occupancy is the first case's; that of a case is in proportion to its step.
    longer = case["render_step_size"] / INFO["cases"][0]["render_step_size"]
    occupancy.values.copy_(DATA["occs_centers"] * longer)
    occupancy.occupied.copy_(occupancy.values > occupancy.values.mean().clamp(max=occupancy.threshold))
    if longer == 1:
        assert torch.equal(occupancy.occupied, DATA["binaries"].reshape(-1))
    return scene


def _train(scene: Scene, name: str) -> Rendered:
    """A training forward as the fixture made it, and its gradients."""
    meaning = INFO["tensors"][f"{name}_train_comp_rgb"]["meaning"]
    chosen = re.search(r"shading='(\w+)', ambient_ratio=([\d.]+)", meaning)
    shading = scene.material.shading(chosen[1], float(chosen[2])) if chosen else None
    out = scene.train()(RAYS, DATA["light_positions"], shading=shading)
    loss = (out.rgb * DATA[f"{name}_cot_rgb"]).sum()
    if chosen:
        orient = orient_loss(out)
        assert_close(orient, DATA[f"{name}_loss_orient"], atol=1e-5, rtol=1e-4)
        loss = loss + 10 * orient
    loss.backward()
    return out


def _close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert_close(got, wanted, rtol=0, atol=PARTS * max(1e-3, wanted.abs().max().item()))


@pytest.mark.parametrize("name", CASES)
def test_the_sampled_sections_are_the_official_ones(name):
    scene, flat = _scene(name), Rays(RAYS.origins.reshape(-1, 3), RAYS.directions.reshape(-1, 3))
    assert scene.renderer.step == pytest.approx(CASES[name]["render_step_size"], rel=1e-6)
    samples = scene.renderer.sample(flat, scene.geometry)
    step = scene.renderer.step
    ours = set(zip(samples.ray.tolist(), (samples.t_start / step).round().int().tolist(), strict=True))
    starts = (DATA[f"{name}_t_starts"] / step).round().int().tolist()
    theirs = set(zip(DATA[f"{name}_ray_indices"].tolist(), starts, strict=True))
    assert len(theirs) == CASES[name]["n_samples"]
    assert len(ours ^ theirs) <= 0.002 * len(theirs)
    if ours == theirs:
        assert_close(samples.t_start, DATA[f"{name}_t_starts"], atol=1e-4, rtol=0)
        assert_close(samples.t_end, DATA[f"{name}_t_ends"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_evaluation_pictures_are_the_official_ones(name):
    with torch.no_grad():
        out = _scene(name, chunk=100).eval()(RAYS, DATA["light_positions"])
    for ours, theirs in PICTURES.items():
        if f"{name}_{theirs}" in DATA:
            _close(getattr(out, ours), DATA[f"{name}_{theirs}"])
    assert (out.normal is None) == (f"{name}_comp_normal" not in DATA)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_training_pictures_and_gradients_are_the_official_ones(name, recompute):
    scene = _scene(name, recompute=recompute, chunk=100)
    _close(_train(scene, name).rgb, DATA[f"{name}_train_comp_rgb"])
    found, prefix = official_gradients(scene), f"{name}_grad_"
    compared = [key for key in DATA if key.startswith(prefix)]
    for key in compared:
        _close(found[key.removeprefix(prefix)], DATA[key])
    assert compared


@pytest.mark.parametrize("name", ["nomat", "shading"])
def test_recomputing_changes_no_gradient(name):
    gradients = []
    for recompute in (False, True):
        scene = _scene(name, recompute=recompute, chunk=64)
        _train(scene, name)
        gradients.append({key: p.grad for key, p in scene.named_parameters()})
    for key, wanted in gradients[0].items():
        assert_close(gradients[1][key], wanted, atol=1e-6 * wanted.abs().max().item(), rtol=1e-4)


def test_the_occupancy_follows_the_official_one():
    geometry = scene_of(geometry_of(GRID["geometry"])).geometry
    resolution = len(GRID_DATA["binaries_step0"])
    renderer = VolumeRenderer(
        occupancy=SceneOccupancy(resolution=resolution), num_samples_per_ray=GRID["num_samples_per_ray"]
    )
    draws = torch.Generator().manual_seed(GRID["seed"])
    for step in (0, 8, 16):
        before = renderer.occupancy.values.clone()
        renderer.update_step(step, geometry, draws)
        if f"occs_step{step}" not in GRID_DATA:
            assert torch.equal(renderer.occupancy.values, before)
            continue
        assert_close(renderer.occupancy.values, GRID_DATA[f"occs_step{step}"].float(), atol=1e-4, rtol=2e-3)  # fp16
        bits = renderer.occupancy.occupied.view([resolution] * 3)
        assert (bits != GRID_DATA[f"binaries_step{step}"]).float().mean() < 0.002


def test_later_updates_look_at_a_quarter_of_all_cells_and_at_every_occupied_one_where_they_are_few():
    occupancy = SceneOccupancy(resolution=8)
    occupancy.occupied.fill_(False)
    occupancy.occupied[100:150] = True
    few = occupancy._some_cells(generator(0, 0))
    assert torch.isin(torch.arange(100, 150), few).all() and 50 < len(few) <= 50 + 8**3 // 4
    occupancy.occupied.fill_(True)
    assert 8**3 // 4 < len(occupancy._some_cells(generator(0, 0))) <= 8**3 // 2


def test_sampling_equals_brute_force_over_the_lattice_also_in_parts(monkeypatch):
    occupancy = SceneOccupancy(bound=0.7, resolution=8)
    occupancy.occupied.copy_(torch.rand(8**3, generator=generator(0, 1)) < 0.2)
    origins = torch.randn(40, 3, generator=generator(0, 2)) * 1.5
    origins[0] = 0.1  # a camera inside
    targets = torch.randn(40, 3, generator=generator(0, 3)) * 0.4
    rays = Rays(origins, torch.nn.functional.normalize(targets - origins, dim=-1))
    step, jitter = 0.04, torch.rand(40, generator=generator(0, 4))
    starts = (torch.arange(400) + jitter[:, None]) * step
    middle = origins[:, None] + rays.directions[:, None] * (starts + step / 2)[..., None]
    ray, number = occupancy(middle).nonzero(as_tuple=True)
    whole = occupied_samples(rays, occupancy, step, jitter)
    assert torch.equal(whole.ray, ray) and len(whole) > 100
    assert_close(whole.t_start, starts[ray, number])
    monkeypatch.setattr("projects.mvdream_sds.scene.marching.CANDIDATES", 50)
    parts = occupied_samples(rays, occupancy, step, jitter)
    assert torch.equal(parts.ray, whole.ray) and torch.equal(parts.t_start, whole.t_start)


@pytest.mark.parametrize("recompute", [False, True])
def test_an_empty_scene_shows_its_background_and_still_trains(recompute):
    scene = _scene("nomat", recompute=recompute).train()
    scene.renderer.occupancy.occupied.fill_(False)
    out = scene(RAYS)
    assert_close(out.rgb, out.background)
    out.rgb.sum().backward()
    assert not out.opacity.any() and out.samples_per_ray == 0
    assert scene.background.network[0].weight.grad.any()


def test_a_training_step_draws_only_from_what_it_is_given():
    scene = _scene("shading", randomized=True).train()
    first, again, other = (scene(RAYS, DATA["light_positions"], draws=Seeded(generator(0, s))) for s in (1, 1, 2))
    assert torch.equal(first.rgb, again.rgb) and not torch.equal(first.rgb, other.rgb)
    with pytest.raises(ValueError, match="draws"):
        scene(RAYS, DATA["light_positions"])
    with pytest.raises(ValueError, match="light_positions"):
        scene.eval()(RAYS)
