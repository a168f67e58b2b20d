"""Parity with the official code, text -> views: every constructor argument, input and count is the fixture's."""

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from core.cameras.poses import from_opengl, swap_world_up
from core.checkpoints.zero123 import UNUSED_SCHEDULE
from core.diffusion.schedules import NoiseSchedule
from core.diffusion.steps import ldm_num_steps
from core.images import truncated
from projects.mvdream_sds.cameras import condition, view_poses
from projects.mvdream_sds.model import LEAST_LOG_VARIANCE
from projects.mvdream_sds.sampler import Condition, guided_noise, sample, uniform_steps
from tests.golden_fixture import load, named
from tests.projects.mvdream_sds.golden_networks import SCHEDULE, close, golden_networks, text_networks

SYSTEM = "mvdream_sds"


@pytest.mark.parametrize("name", ["unet_sd2", "unet_sd1"])
def test_the_multi_view_unet_of_either_flavour(name, tmp_path):
    """Views joined, views apart, and Stable Diffusion without cameras."""
    info, data = load(SYSTEM, name)
    denoiser = golden_networks(tmp_path, unet=info["constructor_kwargs"]).denoiser

    def predict(num_views: int, camera: torch.Tensor | None) -> torch.Tensor:
        x, context, t = (rearrange(data[k], "(b v) ... -> b v ...", v=num_views) for k in ("x", "context", "timesteps"))
        if camera is not None:
            camera = rearrange(camera, "(b v) d -> b v d", v=num_views)
        with torch.no_grad():
            return rearrange(denoiser.predict(x, t[:, 0], context, camera), "b v c h w -> (b v) c h w")

    f = info["num_frames"]
    assert (rearrange(data["timesteps"], "(b v) -> b v", v=f).diff() == 0).all(), "one timestep for all views"
    close(predict(f, data["camera"]), data["eps"], 1e-4)
    close(predict(1, data["camera"]), data["eps_camera_frames1"], 1e-4)
    close(predict(1, None), data["eps_2d"], 1e-4)
    close(denoiser.camera_embed(data["camera"]), data["mid_camera_emb"])
    unet = denoiser.unet
    close(unet.time_embedding(unet.time_proj(data["timesteps"])), data["mid_time_emb"])


def test_cameras():
    info, data = load(SYSTEM, "cameras")
    for number, case in enumerate(info["get_camera_cases"]):
        angles = [np.radians(case[name]) for name in ("elevation", "azimuth_start", "azimuth_span")]
        poses = view_poses(case["num_frames"], elevation=angles[0], azimuth=angles[1], span=angles[2])
        if not case["blender_coord"]:
            poses = swap_world_up(poses, y_up_to_z_up=False)
        assert_close(condition(poses), data[f"get_camera_{number}"], rtol=0, atol=1e-6)
    assert len(named(data, "c2w_opengl_")) and len(named(data, "c2w_opengl_")) == len(named(data, "c2w_blender_"))
    for opengl, blender in zip(named(data, "c2w_opengl_").values(), named(data, "c2w_blender_").values(), strict=True):
        assert_close(swap_world_up(opengl, y_up_to_z_up=True), blender, rtol=0, atol=1e-9)
    given = from_opengl(data["normalize_in"])
    kept = given.clone()
    assert_close(condition(given), data["normalize_out"], rtol=0, atol=1e-6)
    assert torch.equal(given, kept)  # the official function divides its input in place


def of_the_others(beta, abar):
    """Buffers of published files that ours do not keep, since they follow from two (`UNUSED_SCHEDULE`)."""
    before = torch.cat([torch.ones(1), abar[:-1]])
    found = {
        "alphas_cumprod_prev": before,
        "log_one_minus_alphas_cumprod": (1 - abar).log(),
        "sqrt_recip_alphas_cumprod": (1 / abar).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        "posterior_mean_coef1": beta * before.sqrt() / (1 - abar),
        "posterior_mean_coef2": (1 - before) * (1 - beta).sqrt() / (1 - abar),
    }
    assert found.keys() == set(UNUSED_SCHEDULE)
    return found


def test_the_schedule_and_its_timesteps():
    info, data = load(SYSTEM, "schedule")
    schedule = NoiseSchedule(start=info["linear_start"], end=info["linear_end"], least_log_variance=LEAST_LOG_VARIANCE)
    ours = {name: value.double() for name, value in schedule.named_buffers()}
    ours |= of_the_others(ours["betas"], ours["alphas_cumprod"])
    for name in SCHEDULE:
        assert_close(
            ours[name], data[name].double(), rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    asked = named(data, "ddim_timesteps_S")
    assert asked
    for count, timesteps in asked.items():
        steps = uniform_steps(NoiseSchedule(end=info["linear_end"]), count, spacing="leading")
        assert_close(steps.timesteps.flip(0), timesteps, rtol=0, atol=0)
        assert ldm_num_steps(count, drop_last=False) == len(timesteps)


def test_the_autoencoder(tmp_path):
    info, data = load(SYSTEM, "vae")
    networks = golden_networks(tmp_path, vae=info["ddconfig"], embed_dim=info["embed_dim"])
    latents = networks.latents
    with torch.no_grad():
        moments = latents.moments(data["image"])
        close(moments, data["moments"])
        close(latents.decode(data["z"] * latents.scaling_factor), data["decoded"])
        close(latents.mode(moments) / latents.scaling_factor, data["mean"])
    noise = torch.ones_like(data["mean"])
    close(latents.sample(moments, noise) / latents.scaling_factor, data["mean"] + data["std"])
    assert_close(data["std"], (0.5 * data["logvar"]).exp(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [pytest.param("ddim_eta_zero", marks=pytest.mark.slow), "ddim_eta_positive"])
def test_ddim_with_guidance(name, tmp_path):
    """Every step, the predicted x_0, the decoded images and their bytes."""
    info, data = load(SYSTEM, name)
    networks = golden_networks(
        tmp_path, unet=info["unet_kwargs"], vae=info["vae_ddconfig"], scaling_factor=info["scale_factor"]
    )
    noises = iter(data.get("step_noise", ()))
    steps = uniform_steps(
        networks.denoiser.schedule,
        info["S"],
        eta=info["eta"],
        spacing="leading",
        normal=lambda shape: next(noises).reshape(shape),
    )
    assert_close(steps.schedule.timesteps, data["timesteps"], rtol=0, atol=0)
    for ours, theirs in (("alphas", "ddim_alphas"), ("alphas_prev", "ddim_alphas_prev"), ("sigmas", "ddim_sigmas")):
        assert_close(getattr(steps.schedule, ours), data[theirs], rtol=0, atol=1e-5)

    f = info["num_frames"]
    context, uncond = (data[key][:, None] for key in ("context", "uncond"))
    camera = rearrange(data["camera"], "(b v) d -> b v d", v=f)
    noise = rearrange(data["x_T"], "(b v) ... -> b v ...", v=f)
    seen: list[torch.Tensor] = [noise]
    samples = sample(
        networks.denoiser,
        context,
        uncond,
        camera,
        noise,
        steps=steps,
        guidance_scale=info["cfg_scale"],
        on_step=lambda number, x: seen.append(x),
    )
    for x, expected in zip(seen, data["x_inter"], strict=True):
        close(rearrange(x, "b v ... -> (b v) ..."), expected)
    close(rearrange(samples, "b v ... -> (b v) ..."), data["samples"])

    given = Condition(context, uncond, camera)
    with torch.no_grad():
        for x, t, a, expected in zip(
            data["x_inter"], data["timesteps"].flip(0), data["ddim_alphas"].flip(0), data["pred_x0"], strict=False
        ):
            x = rearrange(x, "(b v) ... -> b v ...", v=f)
            eps = guided_noise(networks.denoiser, x, t, given, info["cfg_scale"])
            x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            close(rearrange(x_0, "b v ... -> (b v) ..."), expected)
        images = networks.latents.decode(rearrange(samples, "b v ... -> (b v) ...")) / 2 + 0.5
    close(images.clamp(0, 1), data["images"])
    written = (truncated(images.clamp(0, 1)) * 255).round().byte()
    assert (written.int() - rearrange(data["images_u8"], "n h w c -> n c h w").int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("num_unread", "expected"), [(1, "penultimate"), pytest.param(0, "last", marks=pytest.mark.slow)]
)
def test_the_text_towers_hidden_states(num_unread, expected, tmp_path):
    """MVDream reads the next to last; our tower then has one layer less than the file."""
    info, data = load(SYSTEM, "text")
    networks = text_networks(tmp_path, info, num_unread=num_unread)
    with torch.no_grad():
        close(networks.text_encoder.embed(data["tokens"]), data[expected])
