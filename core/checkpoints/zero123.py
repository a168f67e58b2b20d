"""Zero-1-to-3's published names (Liu et al. 2023) -> a system with `denoiser`, `latents` and `image_encoder`.

`zero123-xl.ckpt` (and 105000, 165000, 230000, 300000.ckpt, which hold the same names): a latent-diffusion UNet of eight
input channels under `model.diffusion_model.` and its average under `model_ema.`, a VAE, OpenAI's CLIP, and the layer
`cc_projection`, which joins an image's embedding with a pose.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from core.checkpoints import clip, ldm
from core.checkpoints.rename import NameTable

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.model."
PROJECTION = "cc_projection"
SCHEDULE = (  # of `NoiseSchedule`; its `alphas` alone is not among Zero-1-to-3's buffers
    "betas",
    "alphas_cumprod",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
)
UNUSED_SCHEDULE = (
    "alphas_cumprod_prev",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def table(
    *,
    projection: str,
    average: str,
    num_levels: int = 4,
    layers_per_block: int = 2,
    attention_levels: Collection[int] = (0, 1, 2),
    vae_levels: int = 4,
    vae_layers_per_block: int = 2,
    clip_layers: int = 24,
) -> NameTable:
    """All that a checkpoint holds; the sizes are the published ones by default.

    Args:
        projection: our name, in the denoiser, of what joins embedding and pose.
        average: why `model_ema.` is left out, where `read_checkpoint` has not put it in the plain weights' place.
        vae_levels: of the autoencoder's channels, the finest included.
        clip_layers: of CLIP's image tower.
    """
    backbone = ldm.unet_pairs(
        num_levels=num_levels,
        layers_per_block=layers_per_block,
        attention_levels=attention_levels,
        theirs=UNET,
        ours="denoiser.unet.",
    )
    rest = [(PROJECTION, f"denoiser.{projection}"), *((name, f"denoiser.schedule.{name}") for name in SCHEDULE)]
    dropped = dict.fromkeys(UNUSED_SCHEDULE, "a schedule buffer that follows from the others")
    dropped["model_ema"] = average
    return (
        NameTable([*backbone, *rest], dropped=dropped)
        + ldm.vae(num_levels=vae_levels, layers_per_block=vae_layers_per_block, theirs=VAE, ours="latents.vae.")
        + clip.vision(num_layers=clip_layers, theirs=CLIP, ours="image_encoder.clip.")
    )


def widen_input(state: Mapping[str, Tensor], key: str = f"{UNET}input_blocks.0.0.weight") -> dict[str, Tensor]:
    """Give a plain Stable-Diffusion UNet the four channels of the input view, with zero weights."""
    state = dict(state)
    if key in state and state[key].shape[1] == 4:
        state[key] = torch.cat([state[key], torch.zeros_like(state[key])], dim=1)
    return state
