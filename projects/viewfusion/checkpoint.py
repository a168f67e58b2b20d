"""Published weights: the official names of Zero-1-to-3's tensors, for a system of any size, and ours.

`zero123-xl.ckpt` and its likes hold everything; `sd-image-conditioned-v2.ckpt`, which the official training starts
from, has an input layer of four channels and no projection of poses.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.checkpoints import zero123
from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import NameTable, load_strict

# A buffer of ours that official files lack: it is 1 - betas.
ALPHAS, BETAS = "denoiser.schedule.alphas", "denoiser.schedule.betas"


def official_table(system: nn.Module) -> NameTable:
    """The names of a Zero-1-to-3 with as many levels and layers as `system` has."""
    unet, vae = system.denoiser.unet.config, system.latents.vae.config
    return zero123.table(
        projection="pose_projection",
        average="the plain weights were asked for (ema=false), or it was put in their place",
        num_levels=len(unet.block_out_channels),
        layers_per_block=unet.layers_per_block,
        attention_levels=[level for level, kind in enumerate(unet.down_block_types) if kind.startswith("CrossAttn")],
        vae_levels=len(vae.block_out_channels),
        vae_layers_per_block=vae.layers_per_block,
        clip_layers=system.image_encoder.clip.config.num_hidden_layers,
    )


def load_official(system: nn.Module, path: Path, *, ema: bool = True) -> None:
    """All of a published file, or BadCheckpoint.

    Args:
        ema: take the running average of the UNet, with which the official code samples; the rest has none.
    """
    state = official_table(system).read(read_checkpoint(path, ema=ema))
    load_strict(system, with_alphas(state), what=f"Zero-1-to-3 from {path}")


def load_start(system: nn.Module, path: Path) -> None:
    """What a training starts from: the plain weights of a published file.

    A Stable-Diffusion UNet of four input channels is widened by zeros, and what joins image and pose keeps its initial
    values where the file has no such layer, as in the official training. All else must be there.
    """
    state = official_table(system).read(zero123.widen_input(read_checkpoint(path)))
    fresh = {key: value for key, value in system.state_dict().items() if key.startswith("denoiser.pose_projection.")}
    load_strict(system, {**fresh, **with_alphas(state)}, what=f"Zero-1-to-3's start from {path.name}")


def with_alphas(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state with the one buffer that follows from another."""
    return {**state, **({ALPHAS: 1 - state[BETAS]} if BETAS in state else {})}
