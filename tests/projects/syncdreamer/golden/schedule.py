"""Noise schedule, sampler tables and learning rate, driven by the fixture `schedule`."""

import functools
import re

import pytest
import torch
from diffusers import DDIMScheduler

from core.config import instantiate
from core.diffusion.samplers import DDIMSchedule, ddim_step
from core.diffusion.schedules import NoiseSchedule, timestep_embedding
from core.settings import composed, settings
from projects.syncdreamer import train
from tests.golden_fixture import load, named
from tests.projects.syncdreamer.golden.common import (
    close,
    exact,
    follow_timesteps,
)

NO_DATA = [f"data.train.{key}=none" for key in ("target_dir", "input_dir", "uids")]  # only the schedule is built


def test_noise_schedule_buffers():
    _, data = load("syncdreamer", "schedule")
    schedule = NoiseSchedule()
    for name, buffer in schedule.named_buffers():
        exact(buffer, data[name], 1e-6)


def test_adding_noise():
    _, data = load("syncdreamer", "schedule")
    exact(NoiseSchedule().add_noise(data["x0"], data["noise"], data["t"]), data["x_noisy"])


def test_ddim_tables():
    info, data = load("syncdreamer", "schedule")
    eta = info.get("eta", float(re.findall(r"eta=(\d+(?:\.\d+)?)", info["upstream"] + " eta=1")[0]))
    counts = [int(count) for count in re.findall(r"\bddim(\d+)_timesteps\b", " ".join(data))]
    assert counts
    for count in counts:
        with pytest.MonkeyPatch.context() as monkeypatch:
            follow_timesteps(monkeypatch, data[f"ddim{count}_timesteps"], count)
            schedule = DDIMSchedule.uniform(data["alphas_cumprod"], count, eta=eta)
        assert schedule.timesteps.tolist() == data[f"ddim{count}_timesteps"].tolist()
        exact(schedule.alphas, data[f"ddim{count}_alphas"], 1e-6)
        exact(schedule.alphas_prev, data[f"ddim{count}_alphas_prev"], 1e-6)
        exact(schedule.sigmas, data[f"ddim{count}_sigmas"])
        exact((1 - schedule.alphas).sqrt(), data[f"ddim{count}_sqrt_one_minus_alphas"], 1e-6)


def test_timestep_embedding():
    _, data = load("syncdreamer", "schedule")
    t = data["temb_t"]
    embeddings = named(data, "temb_")
    assert embeddings
    for dim, expected in embeddings.items():
        found = timestep_embedding(t, dim)
        # One rounding of f, which differs between processors, turns the angle t f by up to t f / 2^23.
        angles = t[:, None].double() * 10000.0 ** -(torch.arange(dim // 2) / (dim // 2)).double()
        tolerance = (1e-5 + angles / 2**23).repeat(1, 2)
        assert found.shape == expected.shape
        assert ((found - expected).abs() <= tolerance).all(), f"{dim}: {(found - expected).abs().max()}"


@functools.cache
def paper_settings():
    return settings(train.main.program, composed(train.main.program, ["+experiment=syncdreamer/paper", *NO_DATA]))


def paper_schedule(lr=None, cycle=0):
    """The published recipe's learning-rate factor, with the numbers that a cycle of the fixture gives, if any."""
    names = {
        "steps": "warm_up_steps", "max_steps": "cycle_lengths", "start": "f_start", "peak": "f_max", "final": "f_min",
    }  # fmt: skip
    return instantiate(
        paper_settings().schedule, **({} if lr is None else {ours: lr[name][cycle] for ours, name in names.items()})
    )


def official_factors(lr, steps):
    """Factors at official steps, whose count begins anew with every cycle but the first."""
    factors = []
    for step in steps:
        cycle = 0
        while step > lr["cycle_lengths"][cycle]:
            step, cycle = step - lr["cycle_lengths"][cycle], cycle + 1
        factors.append(paper_schedule(lr, cycle)(step))
    return factors


def test_learning_rate_factor():
    info, data = load("syncdreamer", "schedule")
    steps, expected = data["lr_steps"].tolist(), data["lr_factor"]
    exact(torch.tensor(official_factors(info["lr"], steps), dtype=expected.dtype), expected, 1e-6)
    # The public fixture has the published numbers, which the recipe must state by itself.
    if info["set"] == "public":
        recipe = paper_schedule()
        exact(torch.tensor([recipe(step) for step in steps], dtype=expected.dtype), expected, 1e-6)


def test_one_ddim_step_is_that_of_diffusers():
    _, data = load("syncdreamer", "schedule")
    schedule = DDIMSchedule.uniform(data["alphas_cumprod"], 50, eta=1.0)
    theirs = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    theirs.set_timesteps(50)
    x, eps, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in (0, 7, 49):
        ours, _ = ddim_step(x, eps, schedule.alphas[i], schedule.alphas_prev[i], schedule.sigmas[i], noise)
        expected = theirs.step(eps, schedule.timesteps[i], x, eta=1.0, variance_noise=noise).prev_sample
        close(ours, expected, 1e-5)
