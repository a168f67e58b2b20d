"""From a picture file to samples in memory: SyncDreamer's `generate` between reading and writing."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from core.device import autocast
from core.foreground import with_white_as_alpha
from core.images import prepare_input
from core.training.randomness import generator
from projects.syncdreamer.model import Condition
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.settings import Settings
from projects.syncdreamer.system import SyncDreamerSystem


@dataclass(frozen=True)
class Samples:
    """What was made of one picture: its pixels in [-1, 1] as the model saw them, and RGBA views per sample."""

    pixels: Float[Tensor, "3 h w"]
    views: list[Float[Tensor, "v 4 h w"]]


@torch.no_grad()
def make_samples(
    system: SyncDreamerSystem, rgba: Float[Tensor, "4 h w"], settings: Settings, on_step: Callable[[], None]
) -> Samples:
    """`sample_num` samples of one object, on the device and in the precision that are set."""
    device = system.denoiser.azimuths.device
    pixels = prepare_input(rgba, crop_size=settings.crop_size, size=system.denoiser.image_size)
    batch = pixels[None].to(device)
    with autocast(device, settings.precision):
        context, moments = system.image_encoder(batch), system.latents.moments(batch)
        elevation = torch.tensor([math.radians(settings.elevation)], device=device)
        views = []
        for number in range(settings.sample_num):
            # Each sample has its own stream, so the fourth of four is the fourth of eight. Noise is drawn on the CPU:
            # the same on every device. First the autoencoder's noise, then x_T, then one draw per step.
            random = generator(settings.seed, number, stream="sample")
            condition = system.condition(context, system.latents.sample(moments, random), elevation)

            def draw(shape, random=random) -> Tensor:
                return torch.randn(shape, generator=random)

            views.append(sample_views(system, condition, settings, draw, on_step)[0])
    return Samples(pixels, views)


def sample_views(
    system: SyncDreamerSystem,
    condition: Condition,
    settings: Settings | DictConfig,
    draw: Callable[[tuple[int, ...]], Tensor],
    on_step: Callable[[], None],
) -> Float[Tensor, "b v 4 h w"]:
    """One sample per condition, on the CPU; of `settings`, those that the sampler takes.

    Args:
        draw: gives standard normal noise of a shape, on the CPU (`sampler.sample` says when).
    """
    latents = sample(
        system.denoiser,
        condition,
        lambda shape: draw(shape).to(condition.elevation.device),
        num_steps=settings.sample_steps,
        guidance_scale=settings.cfg_scale,
        eta=settings.eta,
        spacing=settings.timestep_spacing,
        views_per_batch=settings.batch_view_num,
        on_step=lambda *_: on_step(),
    )
    decoded = system.latents.decode(rearrange(latents, "b v c h w -> (b v) c h w"))
    rgba = with_white_as_alpha((decoded.float().cpu().clamp(-1, 1) + 1) / 2)
    return rearrange(rgba, "(b v) c h w -> b v c h w", b=len(latents))
