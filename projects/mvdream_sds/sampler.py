"""Views from noise: DDIM as the official code runs it, or one of diffusers' schedulers (Song et al. 2021).

All views of an object are one sample here: they share a timestep, and one evaluation of the denoiser makes the noise of
all. With guidance it makes two, with the text and without.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import diffusers
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.diffusion.guidance import classifier_free_guidance
from core.diffusion.samplers import DDIMSchedule, ddim_step
from core.diffusion.schedules import NoiseSchedule
from core.diffusion.steps import ldm_num_steps
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.switches import OFFICIAL, SCHEDULERS

Normal = Callable[[tuple[int, ...]], Tensor]  # standard normal noise of a shape


@dataclass(frozen=True)
class DDIMSteps:
    """DDIM, step for step as the LDM family does it; `normal` is called once per step where eta is not 0.

    How x_T becomes x_0, in steps that each ask for the noise once: `timesteps` stand in the order of use, `begin` makes
    x_T of standard normal noise, `scaled` gives x as the denoiser reads it, and `step` takes one, counted from 0.
    """

    schedule: DDIMSchedule  # ascending
    normal: Normal | None = None

    @property
    def timesteps(self) -> Int[Tensor, "steps"]:
        return self.schedule.timesteps.flip(0)

    def begin(self, noise: Tensor) -> Tensor:
        return noise

    def scaled(self, x: Tensor, number: int) -> Tensor:
        return x

    def step(self, x: Tensor, eps: Tensor, number: int) -> Tensor:
        i = len(self.schedule) - 1 - number
        noise = None if self.normal is None else self.normal(tuple(x.shape)).to(x)
        alphas = (self.schedule.alphas[i], self.schedule.alphas_prev[i], self.schedule.sigmas[i])
        return ddim_step(x, eps, *(alpha.to(x.device) for alpha in alphas), noise)[0]


class LibrarySteps:
    """The same by a scheduler of diffusers. It has a state of its own: make a new one for every sample."""

    def __init__(self, scheduler: Any, generator: torch.Generator | None = None) -> None:
        self.scheduler = scheduler
        has_noise = "generator" in signature(scheduler.step).parameters
        self.options = {"generator": generator} if has_noise else {}

    @property
    def timesteps(self) -> Int[Tensor, "steps"]:
        return self.scheduler.timesteps.round().long()

    def begin(self, noise: Tensor) -> Tensor:
        return noise * self.scheduler.init_noise_sigma

    def scaled(self, x: Tensor, number: int) -> Tensor:
        return self.scheduler.scale_model_input(x, self.scheduler.timesteps[number])

    def step(self, x: Tensor, eps: Tensor, number: int) -> Tensor:
        return self.scheduler.step(eps, self.scheduler.timesteps[number], x, **self.options).prev_sample


Steps = DDIMSteps | LibrarySteps


def uniform_steps(
    schedule: NoiseSchedule,
    num_steps: int,
    *,
    eta: float = 0.0,
    spacing: str = "trailing",
    normal: Normal | None = None,
) -> DDIMSteps:
    """DDIM over evenly spaced timesteps.

    Args:
        eta: 0 adds no noise, 1 as much as the posterior has.
        spacing: `leading` is the official rule, whose real count is ceil(1000 / (1000 // num_steps)): 30 asked for are
            31. `trailing` gives as many as asked, from the last timestep down (`core.diffusion.steps`).
        normal: must be given where eta is not 0.
    """
    assert eta == 0 or normal is not None, "noise is added, so `normal` must be given"
    alphas = schedule.alphas_cumprod
    if spacing == "leading":
        ldm_num_steps(num_steps, len(alphas), drop_last=False)  # refuses the counts at which the official code fails
        timesteps = torch.arange(0, len(alphas), len(alphas) // num_steps) + 1
        return DDIMSteps(DDIMSchedule.at(alphas, timesteps, eta=eta), normal if eta else None)
    return DDIMSteps(DDIMSchedule.uniform(alphas, num_steps, eta=eta, spacing=spacing), normal if eta else None)


def make_steps(
    schedule: NoiseSchedule,
    num_steps: int,
    generator: torch.Generator,
    *,
    scheduler: str = OFFICIAL,
    eta: float = 0.0,
    spacing: str = "leading",
) -> Steps:
    """Steps by a scheduler's word (`switches.SCHEDULERS`), over the model's own betas; `eta` is DDIM's."""
    if scheduler == OFFICIAL:
        return uniform_steps(schedule, num_steps, eta=eta, spacing=spacing, normal=drawn_from(generator))
    name, options = SCHEDULERS[scheduler]
    made = getattr(diffusers, name)(
        num_train_timesteps=schedule.num_timesteps,
        trained_betas=schedule.betas.double().cpu().numpy(),
        prediction_type="epsilon",  # whatever the network predicts, the denoiser answers with the noise
        timestep_spacing=spacing,
        steps_offset=1 if spacing == "leading" else 0,
        **options,
    )
    made.set_timesteps(num_steps)
    return LibrarySteps(made, generator)


def drawn_from(generator: torch.Generator) -> Normal:
    """Standard normal noise of a generator, on its device."""
    return lambda shape: torch.randn(shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class Condition:
    """What objects are made from. Without cameras nothing tells the views apart but their noise."""

    context: Float[Tensor, "#b 1 l e"]
    null_context: Float[Tensor, "#b 1 l e"]
    camera: Float[Tensor, "b v d"] | None


def guided_noise(
    denoiser: MultiViewDenoiser,
    x: Float[Tensor, "b v c h w"],
    t: Int[Tensor, ""],
    condition: Condition,
    guidance_scale: float,
    max_objects: int | None = None,
) -> Float[Tensor, "b v c h w"]:
    """The noise in x_t, guided away from the null context; a scale of 1 asks for no guidance and evaluates once.

    Args:
        max_objects: objects, each with all its views, in one batch of the UNet, those without the text counted too.
    """
    b = len(x)
    contexts = [condition.context.expand(b, -1, -1, -1)]
    if guidance_scale != 1.0:
        contexts.insert(0, condition.null_context.expand(b, -1, -1, -1))
    context = torch.cat(contexts)
    rows = torch.arange(len(context), device=x.device)
    noise = torch.cat(
        [
            denoiser.predict(
                x[some % b],
                t.expand(len(some)).to(x.device),
                context[some],
                None if condition.camera is None else condition.camera[some % b],
            ).to(x)
            for some in rows.split(max_objects or len(rows))
        ]
    )
    if guidance_scale == 1.0:
        return noise
    unconditional, conditional = noise.chunk(2)
    return classifier_free_guidance(conditional, unconditional, guidance_scale)


@torch.no_grad()
def sample(
    denoiser: MultiViewDenoiser,
    context: Float[Tensor, "#b 1 l e"],
    null_context: Float[Tensor, "#b 1 l e"],
    camera: Float[Tensor, "b v d"] | None,
    noise: Float[Tensor, "b v c h w"],
    *,
    steps: Steps,
    guidance_scale: float = 10.0,
    max_objects: int | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "b v c h w"]:
    """Scaled latents of all views, from noise.

    Args:
        null_context: of the empty text, or of what the views shall not show.
        camera: `cameras.condition` of each view.
        max_objects: a bound on memory without effect on the result (`guided_noise`).
        on_step: called after each step with its number from 0 and x.
    """
    condition = Condition(context, null_context, camera)
    x = steps.begin(noise)
    for number, t in enumerate(steps.timesteps):
        eps = guided_noise(denoiser, steps.scaled(x, number), t, condition, guidance_scale, max_objects)
        x = steps.step(x, eps, number)
        if on_step is not None:
            on_step(number, x)
    return x
