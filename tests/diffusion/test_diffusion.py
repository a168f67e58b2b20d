"""Schedules and samplers, beside what the golden fixtures prove."""

import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from core.diffusion.guidance import classifier_free_guidance
from core.diffusion.samplers import DDIMSchedule, ddim_step, uniform_timesteps
from core.diffusion.schedules import NoiseSchedule
from core.errors import BadRequest


@pytest.mark.parametrize("steps", [3, 30, 0, -1, 1001, 6])
def test_a_step_count_that_the_rule_cannot_give_is_refused_with_the_nearest(steps):
    with pytest.raises(BadRequest, match=r"use \d+ or \d+"):
        uniform_timesteps(steps)


@pytest.mark.parametrize("steps", [4, 25, 50, 200, 500])
def test_a_step_count_that_divides_gives_that_many_steps(steps):
    timesteps = uniform_timesteps(steps)
    assert len(timesteps) == steps and timesteps[0] == 1 and timesteps[-1] < 1000


@pytest.mark.parametrize(("steps", "eta"), [(1, 0.0), (3, 1.0), (7, 0.5), (8, 1.0), (1000, 0.0)])
def test_trailing_steps_are_diffusers_own_from_the_last_timestep_on(steps, eta):
    ours = NoiseSchedule()
    theirs = DDIMScheduler(trained_betas=ours.betas.numpy(), timestep_spacing="trailing", set_alpha_to_one=False,
                           clip_sample=False)  # fmt: skip
    theirs.set_timesteps(steps)
    ddim = DDIMSchedule.uniform(ours.alphas_cumprod, steps, eta=eta, spacing="trailing")
    assert ddim.timesteps.flip(0).tolist() == theirs.timesteps.tolist() and ddim.timesteps[-1] == 999
    if 1000 % steps:
        return  # diffusers then takes each step to t - T // steps, which is not its own next timestep
    for index in {steps - 1, steps // 2, 0} if steps < 1000 else {500}:
        x, eps, noise = torch.randn(3, 1, 4, 2, 2)
        t = ddim.timesteps[index]
        found, _ = ddim_step(x, eps, ddim.alphas[index], ddim.alphas_prev[index], ddim.sigmas[index], noise)
        step = theirs.step(eps, t, x, eta=eta, variance_noise=noise) if eta else theirs.step(eps, t, x)
        assert_close(found, step.prev_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_trailing_steps_are_refused_only_where_there_are_no_such(steps):
    with pytest.raises(BadRequest, match="use 1 to 1000"):
        uniform_timesteps(steps, spacing="trailing")


def test_ddim_with_the_true_noise_arrives_at_the_image():
    schedule = NoiseSchedule()
    ddim = DDIMSchedule.uniform(schedule.alphas_cumprod, 50, eta=0.0)
    image, noise = torch.randn(2, 1, 4, 8, 8)
    x = schedule.add_noise(image, noise, ddim.timesteps[-1:])
    for i in reversed(range(len(ddim))):
        x, found = ddim_step(x, noise, ddim.alphas[i], ddim.alphas_prev[i], ddim.sigmas[i])
    assert_close(found, image, rtol=0, atol=1e-3)


def test_guidance_of_one_is_the_conditional_prediction():
    conditional, unconditional = torch.randn(2, 3, 4)
    assert_close(classifier_free_guidance(conditional, unconditional, 1.0), conditional)


def test_noise_grows_with_time():
    schedule = NoiseSchedule()
    assert (schedule.alphas_cumprod.diff() < 0).all()
    assert schedule.alphas_cumprod[0] > 0.999 and schedule.alphas_cumprod[-1] < 0.005


def test_velocity_and_noise_say_the_same():
    schedule = NoiseSchedule()
    image, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([1, 500, 999])
    signal, sigma = (
        b[t].reshape(-1, 1, 1, 1) for b in (schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod)
    )
    found = schedule.noise_from_velocity(signal * noise - sigma * image, schedule.add_noise(image, noise, t), t)
    assert_close(found, noise, rtol=0, atol=1e-5)
