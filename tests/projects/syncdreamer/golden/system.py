"""Training loss, optimiser groups and the whole sampling loop, driven by the fixture `system`."""

import pytest
import torch
from einops import rearrange

from projects.syncdreamer import checkpoint
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.system import SyncDreamerSystem
from tests.golden_fixture import load, named, views_of
from tests.projects.syncdreamer import tiny
from tests.projects.syncdreamer.golden.common import (
    build_denoiser,
    build_volume,
    close,
    exact,
    fill,
    follow_timesteps,
    given,
    unet_layout,
)

SCALING_FACTOR = 0.18215  # of Stable Diffusion's latents; the official code has it as a number too


def poses_of(data):
    """The system's poses: its own, or those views of the camera fixture that stand at its azimuths."""
    if "poses" in data:
        return data["poses"]
    _, rig = load("syncdreamer", "camera")
    difference = (data["azimuth"][:, None] - rig["azimuth_buffer"]).abs()
    assert difference.amin(dim=1).max() < 1e-5, "the camera fixture has no view at one of the system's azimuths"
    return rig["poses_pkl"].float()[difference.argmin(dim=1)]


@pytest.fixture(scope="module")
def golden_system():
    info, data = load("syncdreamer", "system")
    kwargs = info["kwargs"]
    volume = kwargs["spatial_volume"]
    denoiser = build_denoiser(
        kwargs["unet"],
        build_volume(volume),
        num_views=kwargs["view_num"],
        image_size=volume.get("input_image_size", kwargs["image_size"]),
        **given(volume, time_dim="time_dim", view_dim="view_dim"),
    )
    table = checkpoint.denoiser_table(**unet_layout(kwargs["unet"]), ours="")
    denoiser.world_to_camera.copy_(poses_of(data))
    denoiser.intrinsics.copy_(data["Ks"])
    denoiser.azimuths.copy_(data["azimuth"])
    fill(denoiser, table, exceptions=set(info["exceptions"]))
    return info, data, denoiser, table


@pytest.fixture(scope="module")
def condition(golden_system):
    """What the system makes of the given embedding and scaled latents: the UNet concatenates unscaled ones."""
    info, data, denoiser, _ = golden_system
    return system_of(denoiser, info["kwargs"]).condition(data["clip_embed"], data["x_input"], data["elevation"])


def system_of(denoiser, kwargs):
    return SyncDreamerSystem(
        denoiser=denoiser,
        latents=tiny.latents(SCALING_FACTOR),
        image_encoder=tiny.image_encoder(),
        **given(kwargs, **{name: name for name in ("drop_conditions", "finetune_unet", "finetune_projection")}),
    )


def views_shown(info, name, tensor, batch):
    """The views of a tensor [(b k), ...], by its name."""
    return views_of(name, info["tensors"][name]["meaning"], len(tensor) // batch, info["kwargs"]["view_num"])


def test_training_loss_and_gradients(golden_system, condition):
    info, data, denoiser, table = golden_system
    system = system_of(denoiser, info["kwargs"])
    denoiser.requires_grad_(True)  # the official code computes gradients of what it freezes, too
    denoiser.zero_grad()
    loss = system.noise_loss(data["x0"], condition, data["train_t"], data["noise"], data["train_target_index"])
    close(loss, data["train_loss"])
    close(loss, torch.tensor(info["train_loss"]))
    loss.backward()
    norms = {name: p.grad.norm() for name, p in denoiser.named_parameters() if p.grad is not None}
    official = table.write(norms)
    for name, expected in info["grad_norms"].items():
        assert official[name].item() == pytest.approx(expected, rel=1e-3, abs=1e-7), name
    denoiser.zero_grad(set_to_none=True)


def test_training_prediction(golden_system, condition):
    _, data, denoiser, _ = golden_system
    x_t = denoiser.schedule.add_noise(data["x0"], data["noise"], data["train_t"])
    with torch.no_grad():
        found = denoiser.predict_views(x_t, data["train_t"], condition, data["train_target_index"])
    close(rearrange(found, "b k c h w -> (b k) c h w"), data["train_pred"])


def test_optimizer_groups(golden_system):
    info, _, denoiser, table = golden_system
    names = {id(p): name for name, p in denoiser.named_parameters()}
    for switches, expected in info["optimizer_groups"].items():
        flags = {key: value == "True" for key, value in (pair.split("=") for pair in switches.split(","))}
        lr = min(group["initial_lr"] for group in expected)
        groups = denoiser.parameter_groups(lr, **flags)
        optimizer = torch.optim.AdamW(groups, lr=lr)
        assert len(groups) == len(expected)
        for group, want in zip(optimizer.param_groups, expected, strict=True):
            official = table.write({names[id(p)]: p for p in group["params"]})
            assert group["lr"] == pytest.approx(want["initial_lr"])
            assert len(group["params"]) == want["n_tensors"]
            assert sum(p.numel() for p in group["params"]) == want["n_params"]
            assert {want["first_key"], want["last_key"]} <= set(official)
            for name in ("weight_decay", "eps"):
                assert group[name] == want[name]
            assert list(group["betas"]) == want["betas"]


def test_time_and_view_conditions(golden_system):
    info, data, denoiser, _ = golden_system
    batch = len(data["elevation"])
    names = [name for name in data if name.startswith("cc_projection_views")]
    assert names
    with torch.no_grad():
        exact(denoiser.embed_views(data["elevation"]), data["v_embed"])
        close(denoiser.embed_time(data["ddim_timesteps"][-1:].expand(batch)), data["t_embed_first"])
        for name in names:
            views = views_shown(info, name, data[name], batch)
            close(denoiser.project_context(data["clip_embed"], data["v_embed"][:, views]), data[name])


@pytest.mark.parametrize("kind", ["cond", "cfg"])
def test_first_step_prediction(golden_system, condition, kind):
    info, data, denoiser, _ = golden_system
    settings = info["sampler"]
    batch = len(data["x_T"])
    names = [name for name in data if name.startswith(f"noise_{kind}_views")]
    assert names
    with torch.no_grad():
        noise = denoiser.denoise(
            data["x_T"],
            data["ddim_timesteps"][-1:].expand(batch),
            condition,
            guidance_scale=1.0 if kind == "cond" else settings["unconditional_scale"],
            views_per_batch=settings["batch_view_num"],
        )
    for name in names:
        views = views_shown(info, name, data[name], batch)
        close(rearrange(noise[:, views], "b k c h w -> (b k) c h w"), data[name])


@pytest.mark.slow
def test_full_sampling_loop(golden_system, condition, monkeypatch):
    info, data, denoiser, _ = golden_system
    settings = info["sampler"]
    follow_timesteps(monkeypatch, data["ddim_timesteps"], settings["ddim_num_steps"])
    noises = iter([data["x_T"], *named(data, "step_noise_").values()])
    seen = []
    result = sample(
        denoiser,
        condition,
        lambda shape: next(noises),
        num_steps=len(data["ddim_timesteps"]),
        guidance_scale=settings["unconditional_scale"],
        eta=settings["eta"],
        views_per_batch=settings["batch_view_num"],
        on_step=lambda number, x, x_0: seen.append(x),
    )
    assert next(noises, None) is None, "the official loop drew more noise"
    for number, expected in {**named(data, "x_after_step"), **named(data, "x_inter_")}.items():
        close(seen[number], expected)
    close(result, data["x_final"])
