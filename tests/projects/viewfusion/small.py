"""The real classes, as small as they go, with weights that do not leave any branch silent."""

import copy
import functools

import torch
from diffusers import UNet2DConditionModel

from projects.viewfusion.autoregression import Draws, ViewFusion
from projects.viewfusion.model import Zero123
from tests.projects.syncdreamer.tiny import CONTEXT, image_encoder, latents

SIZE = 32
STEPS = {"num_steps": 4, "spacing": "leading", "drop_last": True}


def denoiser(**options) -> Zero123:
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        attention_head_dim=2, cross_attention_dim=CONTEXT,
    )  # fmt: skip
    return Zero123(unet=unet, image_size=SIZE, **options)


def parts() -> dict:
    """A denoiser and the networks around it, with the same weights at every call, to do with as one likes."""
    return copy.deepcopy(_parts())


@functools.cache
def _parts() -> dict:
    torch.manual_seed(0)
    made = {"denoiser": denoiser(), "latents": latents(), "image_encoder": image_encoder()}
    for part in made.values():
        part.eval().requires_grad_(False)
    return made


def fusion(**options) -> ViewFusion:
    """Around one set of networks, which stay as they are."""
    return ViewFusion(**_parts(), **(STEPS | options))


def draws(seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed))


def pictures(number: int = 1) -> torch.Tensor:
    """Pixels in [-1, 1]."""
    return torch.rand(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
