"""From a picture file to samples in memory: SyncDreamer's `generate` between reading and writing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from core.device import autocast
from core.errors import BadImage
from core.foreground import foreground_mask
from core.images import composite, prepare_input, read_image_with_info
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


def read_object(path: Path, mask: str) -> tuple[Float[Tensor, "4 h w"], str]:
    """A picture whose alpha marks the object, and how the mask was found.

    Alpha that is the same everywhere marks nothing: most programs write a full one into every PNG.
    """
    rgba, info = read_image_with_info(path)
    if mask in ("alpha", "auto") and rgba[3].min() < rgba[3].max():
        return rgba, "the picture's alpha" if mask == "alpha" else "mask=auto: the picture's alpha"
    if mask == "alpha" and rgba[3].max() == 0:
        raise BadImage(f"{path}: no foreground pixels: alpha is 0 everywhere; give a picture with a visible object")
    if mask == "alpha":
        lack = "has the same alpha everywhere, which marks no object" if info.has_alpha else "has no alpha channel"
        raise BadImage(
            f"{path} {lack}; pass mask=auto to find the object, mask=white for a white background, or mask=none to use "
            "the whole picture"
        )
    alpha, how = foreground_mask(composite(rgba), mask)
    return torch.cat([rgba[:3], alpha[None]]), how


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


def with_white_as_alpha(rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 4 h w"]:
    """The model paints on white: white joined to the border becomes transparent. An all-white view stays empty."""
    masks = []
    for image in rgb:
        try:
            masks.append(foreground_mask(image, "white")[0])
        except BadImage:
            masks.append(torch.zeros_like(image[0]))
    return torch.cat([rgb, torch.stack(masks)[:, None]], dim=1)
