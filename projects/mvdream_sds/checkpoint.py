"""Published weights: the official names of MVDream's tensors, for networks of any size, and ours.

`sd-v2.1-base-4view.pt` and `sd-v1.5-4view.pt` are flat and hold everything: UNet, text tower, VAE and the schedule's
buffers. They differ in their text towers: OpenCLIP's in its own names, and OpenAI's in those of transformers. A Stable
Diffusion in its original names has the same tensors less the camera's.

Here `networks` is any module with the parts `denoiser`, `latents` and `text_encoder`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from core.checkpoints import clip, ldm
from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import NameTable, load_strict
from core.checkpoints.zero123 import SCHEDULE, UNUSED_SCHEDULE

UNET, VAE = "model.diffusion_model.", "first_stage_model."
OPENCLIP, OPENAI = "cond_stage_model.model.", "cond_stage_model.transformer.text_model."
CAMERA = "denoiser.camera_embed."
# A buffer of ours that official files lack: it is 1 - betas.
ALPHAS, BETAS = "denoiser.schedule.alphas", "denoiser.schedule.betas"
Tower = Literal["openclip", "openai"]


def official_table(networks: nn.Module, tower: Tower) -> NameTable:
    """The names of an MVDream with as many levels and layers as `networks` has.

    Args:
        tower: whose text tower it is: `openclip` (SD-2.1; its last layer is not read) or `openai` (SD-1.5).
    """
    unet, vae = networks.denoiser.unet.config, networks.latents.vae.config  # type: ignore[union-attr]
    levels = [level for level, kind in enumerate(unet.down_block_types) if kind.startswith("CrossAttn")]
    camera = [(f"{UNET}camera_embed.0", f"{CAMERA}linear_1"), (f"{UNET}camera_embed.2", f"{CAMERA}linear_2")]
    schedule = [(name, f"denoiser.schedule.{name}") for name in SCHEDULE]
    backbone = ldm.unet_pairs(
        num_levels=len(unet.block_out_channels),
        layers_per_block=unet.layers_per_block,
        attention_levels=levels,
        theirs=UNET,
        ours="denoiser.unet.",
    )
    dropped = dict.fromkeys(UNUSED_SCHEDULE, "a schedule buffer that follows from the others")
    return (
        NameTable([*backbone, *camera, *schedule], dropped=dropped)
        + ldm.vae(
            num_levels=len(vae.block_out_channels),
            layers_per_block=vae.layers_per_block,
            theirs=VAE,
            ours="latents.vae.",
        )
        + _text_table(networks, tower)
    )


def tower_of(state: Mapping[str, Tensor]) -> Tower:
    """Whose text tower a file holds, by its names."""
    return "openai" if any(name.startswith(OPENAI) for name in state) else "openclip"


def load_official(networks: nn.Module, path: Path) -> None:
    """All of a published file, or BadCheckpoint."""
    theirs = read_checkpoint(path)
    state = official_table(networks, tower_of(theirs)).read(theirs)
    load_strict(networks, with_alphas(state), what=f"MVDream from {path}")


def load_start(networks: nn.Module, path: Path) -> bool:
    """What a training starts from: a published MVDream, or a Stable Diffusion in its original names.

    What reads cameras keeps its initial values where the file has no such layer; returns whether it has. All else must
    be there.
    """
    theirs = {name: value for name, value in read_checkpoint(path).items() if not name.startswith("model_ema.")}
    state = official_table(networks, tower_of(theirs)).read(theirs)
    fresh = {name: value for name, value in networks.state_dict().items() if name.startswith(CAMERA)}
    load_strict(networks, {**fresh, **with_alphas(state)}, what=f"MVDream's start from {path}")
    return any(name.startswith(CAMERA) for name in state)


def with_alphas(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state with the one buffer that follows from another."""
    return {**state, **({ALPHAS: 1 - state[BETAS]} if BETAS in state else {})}


def _text_table(networks: nn.Module, tower: Tower) -> NameTable:
    if tower == "openai":
        return clip.transformers_text(theirs=OPENAI, ours="text_encoder.clip.")
    layers = networks.text_encoder.clip.config.num_hidden_layers  # type: ignore[union-attr]
    return clip.openclip_text(num_layers=layers, theirs=OPENCLIP, ours="text_encoder.clip.")
