"""Guidance and schedules against the official ones, driven by the fixture alone."""

import pytest
import torch
from einops import rearrange

from core.cameras.poses import from_opengl
from core.errors import BadConfig
from core.training.randomness import generator
from projects.mvdream_sds.cameras import condition
from projects.mvdream_sds.scene.annealing import annealed, check_bounds, check_schedule
from projects.mvdream_sds.scene.guidance import MultiViewGuidance
from tests.golden_fixture import load
from tests.projects.mvdream_sds.golden_networks import close, golden_networks

INFO, DATA = load("mvdream_sds", "guidance")
V = INFO["n_view"]
POSES = from_opengl(DATA["c2w"])
CONTEXT = tuple(rearrange(half, "(s v) l e -> s v l e", v=V) for half in DATA["text_embeddings"].chunk(2))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return golden_networks(
        tmp_path_factory.mktemp("official"),
        unet=INFO["unet_kwargs"],
        vae=INFO["vae_ddconfig"],
        scaling_factor=INFO["scale_factor"],
    )


def _guidance(networks, **options) -> MultiViewGuidance:
    given = {
        name: options[name]
        for name in ("guidance_scale", "recon_std_rescale", "recon_loss", "max_scenes", "precision")
        if name in options
    }
    return MultiViewGuidance(
        denoiser=networks.denoiser, latents=networks.latents, num_views=V, image_size=INFO["image_size"], **given
    )


@pytest.mark.parametrize("max_scenes", [0, 1])
@pytest.mark.parametrize("case", INFO["cases"], ids=lambda case: f"case{case['case']}")
def test_losses_and_gradients_are_the_official_ones(networks, case, max_scenes):
    guidance, name = _guidance(networks, **case, max_scenes=max_scenes), f"case{case['case']}"
    rgb = DATA["rgb"].clone().requires_grad_(True)
    latents = guidance.encode(rgb, DATA["posterior_noise"])
    latents.retain_grad()
    close(latents, DATA["latents"])
    t = torch.tensor(case["timestep"])
    out = guidance.distill(latents, CONTEXT, POSES, t=t, noise=DATA["diffusion_noise"])
    out["loss_sds"].backward()
    for key, value in {
        "loss_sds": out["loss_sds"],
        "grad_norm": out["grad_norm"],
        "grad_latents": latents.grad,
        "grad_rgb": rgb.grad,
    }.items():
        close(value, DATA[f"{name}_{key}"], TOLERANCE)


def test_noises_are_the_official_ones(networks):
    guidance, case = _guidance(networks), INFO["cases"][0]
    x_t = rearrange(DATA[f"case{case['case']}_latents_noisy"], "(s v) ... -> s v ...", v=V)
    camera = rearrange(condition(POSES), "(s v) d -> s v d", v=V)
    close(rearrange(camera, "s v d -> (s v) d"), DATA["camera_cond"])
    with torch.no_grad():
        found = guidance._noises(x_t, torch.full((len(x_t),), case["timestep"]), CONTEXT, camera)
    for eps, kind in zip(found, ("cond", "uncond"), strict=True):
        close(rearrange(eps, "s v ... -> (s v) ..."), DATA[f"case{case['case']}_eps_{kind}"], TOLERANCE)


def test_latents_may_be_given_themselves(networks):
    case = INFO["cases"][0]  # the fixture does not say which; with the others' settings its numbers do not come out
    latents = DATA["latentin_latents"].clone().requires_grad_(True)
    guidance, t = _guidance(networks, **case), torch.tensor(case["timestep"])
    loss = guidance.distill(latents, CONTEXT, POSES, t=t, noise=DATA["diffusion_noise"])["loss_sds"]
    close(loss, DATA["latentin_loss_sds"], TOLERANCE)
    close(torch.autograd.grad(loss, latents)[0], DATA["latentin_grad"], TOLERANCE)


def test_timesteps_and_weights_anneal_as_published(networks):
    guidance, meaning = _guidance(networks), INFO["tensors"]["lambda_orient"]["meaning"]
    orient = [int(number) for number in meaning.split("[")[1].split("]")[0].split(",")]
    rows = zip(
        DATA["anneal_steps"].tolist(), DATA["anneal_min_max_step"].tolist(), DATA["lambda_orient"].tolist(), strict=True
    )
    for step, bounds, weight in rows:
        assert guidance.timesteps(step) == tuple(bounds)
        assert annealed(orient, step) == pytest.approx(weight)


def test_schedules_are_numbers_or_lines_between_whole_steps():
    assert annealed([1.0, 3.0, 4], 1) == 1.5
    assert annealed([2, 1.0, 3.0, 4], 3) == 2.0
    assert annealed(0.7, 12) == 0.7
    for bad in ([1.0], [0, 1.0, 2.0, 0], [0, 1.0, float("nan"), 5], "linear", [0, 1.0, 2.0, 1e3]):
        with pytest.raises(BadConfig, match="min_step_percent"):
            check_schedule("min_step_percent", bad)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.02, 1.0, "high=1.0: expected parts of all timesteps, below 1"),
        (0.02, [0, 0.9, 1.2, 10], "high=.*below 1"),
        (-0.1, 0.9, "low=-0.1: expected a number of at least 0"),
        (0.6, [0, 0.98, 0.5, 100], r"low=0.6 is above high=.* at step 100: 0.6 > 0.5"),
        ([0, 0.02, 0.5, 1000.0], 0.98, "give it as a whole number, such as 1000"),
    ],
)
def test_bounds_that_some_step_could_draw_no_timestep_from_are_refused(low, high, said):
    with pytest.raises(BadConfig, match=said):
        check_bounds("low", low, "high", high)


def test_bounds_that_meet_after_rounding_leave_one_timestep(networks):
    guidance = MultiViewGuidance(
        denoiser=networks.denoiser,
        latents=networks.latents,
        image_size=INFO["image_size"],
        min_step_percent=0.29,
        max_step_percent=[0, 0.98, 0.29, 3],
    )
    assert guidance.timesteps(3) == (290, 290)


def test_a_step_is_a_function_of_its_generator_and_teaches_the_picture_only(networks):
    guidance = _guidance(networks)
    rgb = DATA["rgb"].clone().requires_grad_(True)
    first, again, other = (guidance(rgb, CONTEXT, POSES, step=0, generator=generator(0, s)) for s in (4, 4, 5))
    assert first["loss_sds"] == again["loss_sds"] != other["loss_sds"]
    low, high = guidance.timesteps(0)
    assert low <= first["timestep"] <= high
    first["loss_sds"].backward()
    assert rgb.grad.abs().sum() > 0
    assert all(p.grad is None for part in (networks.denoiser, networks.latents) for p in part.parameters())


def test_lower_precision_of_the_frozen_networks_is_about_the_same(networks):
    found = []
    for precision in ("fp32", "bf16"):
        guidance = _guidance(networks, guidance_scale=1.0, precision=precision)
        rgb = DATA["rgb"].clone().requires_grad_(True)
        loss = guidance(rgb, CONTEXT, POSES, step=0, generator=generator(0, 1))["loss_sds"]
        found.append((loss.item(), torch.autograd.grad(loss, rgb)[0].flatten()))
    (loss, gradient), (low_loss, low_gradient) = found
    assert low_loss == pytest.approx(loss, rel=0.05) and low_loss != loss
    assert torch.cosine_similarity(gradient, low_gradient, dim=0) > 0.98


def test_views_that_make_no_whole_scenes_are_refused(networks):
    with pytest.raises(ValueError, match=f"multiple of {V}"):
        _guidance(networks)(DATA["rgb"][: V - 1], CONTEXT, POSES[: V - 1], step=0, generator=generator(0, 0))
    with pytest.raises(BadConfig, match="image_size"):
        MultiViewGuidance(denoiser=networks.denoiser, latents=networks.latents, image_size=INFO["image_size"] + 1)
