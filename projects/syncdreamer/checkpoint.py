"""Published weights: the official names of SyncDreamer's and Zero-1-to-3's tensors, and ours.

`syncdreamer-pretrain.ckpt` holds everything; `zero123-xl.ckpt` starts a fine-tuning.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from core.checkpoints import clip, ldm, zero123
from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import NameTable, load_strict
from core.checkpoints.zero123 import widen_input

DEPTH = ("proj_in", "proj_context", "proj_out")
DEPTH_ATTENTION = ("to_q", "to_k", "to_v", "to_out")
SCHEDULE = ("alphas", *zero123.SCHEDULE)
BUFFERS = [("poses", "world_to_camera"), ("Ks", "intrinsics"), ("azimuth", "azimuths")]
CLIP_LAYERS = 24  # of ViT-L/14


def denoiser_table(
    *,
    num_levels: int = 4,
    layers_per_block: int = 2,
    attention_levels: Sequence[int] = (0, 1, 2),
    theirs: str = "",
    ours: str = "denoiser.",
) -> NameTable:
    """Everything of SyncDreamer but VAE and CLIP: the UNet, depth attention, volume, embeddings and buffers."""
    backbone = ldm.unet_pairs(
        num_levels=num_levels,
        layers_per_block=layers_per_block,
        attention_levels=attention_levels,
        theirs="model.diffusion_model.",
        ours="unet.",
    )
    num_sites = (num_levels - 1) * (layers_per_block + 1)
    depth = depth_pairs("model.diffusion_model.middle_conditions", "depth_middle")
    for i in range(num_sites):
        depth += depth_pairs(f"model.diffusion_model.output_conditions.{i}", f"depth_up.{i}")
    rest = [
        ("time_embed", "time_embedding"),
        ("cc_projection", "view_projection"),
        *((name, f"schedule.{name}") for name in SCHEDULE),
        *BUFFERS,
    ]
    pairs = [*backbone, *depth, *volume_pairs("spatial_volume", "volume"), *rest]
    return NameTable(ldm.prefixed(pairs, theirs, ours))


def official_table() -> NameTable:
    """All of `syncdreamer-pretrain.ckpt` -> `SyncDreamerSystem`."""
    return (
        denoiser_table()
        + ldm.vae(num_levels=4, layers_per_block=2, theirs="first_stage_model.", ours="latents.vae.")
        + clip.vision(num_layers=CLIP_LAYERS, theirs="clip_image_encoder.model.", ours="image_encoder.clip.")
    )


def zero123_table() -> NameTable:
    """What a fine-tuning takes from `zero123-xl.ckpt`: the UNet (not its average), VAE, CLIP and projection."""
    return zero123.table(
        projection="view_projection",
        average="SyncDreamer starts from the plain weights, as the official training does",
    )


def load_zero123(system: nn.Module, path: Path) -> None:
    """Start a fine-tuning from Zero-1-to-3: what it does not have (volume, depth attention) keeps its initial values.

    An input layer of four channels (Stable Diffusion's) is widened as officially.
    """
    state = zero123_table().read(widen_input(read_checkpoint(path)))
    new = ("denoiser.volume.", "denoiser.depth_", "denoiser.time_embedding.")
    buffers = {"denoiser.schedule.alphas", *(f"denoiser.{ours}" for _, ours in BUFFERS)}
    kept = {
        key: value
        for key, value in system.state_dict().items()
        if key not in state and (key.startswith(new) or key in buffers)
    }
    load_strict(system, {**kept, **state}, what=f"SyncDreamer's start from {path.name}")


def depth_pairs(theirs: str, ours: str) -> list[tuple[str, str]]:
    """One depth-wise attention block."""
    inner = [(f"{theirs}.depth_attn.{name}", f"{ours}.{name}") for name in DEPTH_ATTENTION]
    return [(f"{theirs}.{name}", f"{ours}.{name}") for name in DEPTH] + inner


def conditioned_conv_pairs(theirs: str, ours: str, *, up: bool = False) -> list[tuple[str, str]]:
    """One layer of the 3D networks; upstream calls the norm `bn` in all but the upsampling ones."""
    norm = "norm" if up else "bn"
    names = (("t_conv", "time"), ("v_conv", "view"), (norm, "norm"), ("conv", "conv"))
    return [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in names]


def target_encoder_pairs(theirs: str, ours: str, *, num_blocks: int = 3) -> list[tuple[str, str]]:
    """The 2D encoder of noisy views."""
    blocks = [(f"{theirs}.out_conv{i}", f"{ours}.blocks.{i}") for i in range(num_blocks)]
    return [(f"{theirs}.init_conv", f"{ours}.conv_in"), *blocks, (f"{theirs}.final_out", f"{ours}.conv_out")]


def spatial_net_pairs(theirs: str, ours: str, *, num_levels: int = 4) -> list[tuple[str, str]]:
    """The network over the spatial volume: conv0, then (down conv1, conv2_0, conv2_1), ..., then the ups."""
    pairs = [(f"{theirs}.init_conv", f"{ours}.conv_in"), *conditioned_conv_pairs(f"{theirs}.conv0", f"{ours}.first")]
    num_downs = num_levels - 1
    for i in range(num_downs):
        pairs += conditioned_conv_pairs(f"{theirs}.conv{2 * i + 1}", f"{ours}.downs.{i}")
        for j in range(2):
            pairs += conditioned_conv_pairs(f"{theirs}.conv{2 * i + 2}_{j}", f"{ours}.blocks.{i}.{j}")
        pairs += conditioned_conv_pairs(f"{theirs}.conv{2 * num_downs + 1 + i}", f"{ours}.ups.{i}", up=True)
    return pairs


def frustum_net_pairs(theirs: str, ours: str, *, num_levels: int = 4) -> list[tuple[str, str]]:
    """The network over a view's frustum: conv0, then (down conv1, conv2), ..., then up0, up1, ..."""
    pairs = [(f"{theirs}.conv0", f"{ours}.conv_in")]
    for i in range(num_levels - 1):
        pairs += conditioned_conv_pairs(f"{theirs}.conv{2 * i + 1}", f"{ours}.downs.{i}")
        pairs += conditioned_conv_pairs(f"{theirs}.conv{2 * i + 2}", f"{ours}.blocks.{i}")
        pairs += conditioned_conv_pairs(f"{theirs}.up{i}", f"{ours}.ups.{i}", up=True)
    return pairs


def volume_pairs(theirs: str, ours: str) -> list[tuple[str, str]]:
    """The three networks of the spatial volume."""
    return [
        *target_encoder_pairs(f"{theirs}.target_encoder", f"{ours}.target_encoder"),
        *spatial_net_pairs(f"{theirs}.spatial_volume_feats", f"{ours}.spatial_net"),
        *frustum_net_pairs(f"{theirs}.frustum_volume_feats", f"{ours}.frustum_net"),
    ]
