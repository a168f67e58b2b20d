"""Latent-diffusion networks (Rombach et al. 2022) in their published names -> diffusers' classes.

A system's `checkpoint.py` joins these tables with its own:

    table = (
        ldm.unet(num_levels=4, layers_per_block=2, attention_levels=(0, 1, 2), ours="denoiser.unet.")
        + ldm.vae(num_levels=4, layers_per_block=2, theirs="first_stage_model.", ours="latents.vae.")
        + clip.vision(num_layers=24, theirs="clip_image_encoder.model.", ours="image_encoder.clip.")
        + NameTable(pairs=[("cc_projection", "projection")], dropped={"betas": "the schedule is computed"})
    )
    load_strict(model, table.read(read_checkpoint(path)), what=f"SyncDreamer from {path.name}")
    official = table.write(model.state_dict())    # the other way, for export and for comparing key lists

Levels count from the finest (0). `theirs` and `ours` are prefixes, with their final dot. `unet_arguments` and
`vae_arguments` translate the published configurations into constructor arguments of the diffusers classes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from core.checkpoints.rename import NameTable, squeeze_1x1

Pairs = list[tuple[str, str]]

RESNET = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
]
ATTENTION = [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")]


def unet(**architecture: Any) -> NameTable:
    """Table of an LDM UNet -> `diffusers.UNet2DConditionModel`, by the arguments of `unet_pairs`."""
    return NameTable(unet_pairs(**architecture))


def unet_pairs(
    *,
    num_levels: int,
    layers_per_block: int,
    attention_levels: Collection[int],
    theirs: str = "model.diffusion_model.",
    ours: str = "unet.",
) -> Pairs:
    """Module paths of an LDM UNet and of `diffusers.UNet2DConditionModel`.

    Args:
        layers_per_block: residual blocks per level of the encoder (the decoder has one more).
        attention_levels: levels with transformers; the middle block always has one.
    """
    pairs: Pairs = [
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        *_resnet("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        *_resnet("middle_block.2", "mid_block.resnets.1"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    ]
    index = 1
    for level in range(num_levels):
        block = f"down_blocks.{level}"
        for layer in range(layers_per_block):
            pairs += _resnet(f"input_blocks.{index}.0", f"{block}.resnets.{layer}")
            if level in attention_levels:
                pairs.append((f"input_blocks.{index}.1", f"{block}.attentions.{layer}"))
            index += 1
        if level < num_levels - 1:
            pairs.append((f"input_blocks.{index}.0.op", f"{block}.downsamplers.0.conv"))
            index += 1
    index = 0
    for level in reversed(range(num_levels)):
        block = f"up_blocks.{num_levels - 1 - level}"
        for layer in range(layers_per_block + 1):
            pairs += _resnet(f"output_blocks.{index}.0", f"{block}.resnets.{layer}")
            if level in attention_levels:
                pairs.append((f"output_blocks.{index}.1", f"{block}.attentions.{layer}"))
            if layer == layers_per_block and level > 0:
                upsampler = 2 if level in attention_levels else 1  # it follows the transformer where there is one
                pairs.append((f"output_blocks.{index}.{upsampler}.conv", f"{block}.upsamplers.0.conv"))
            index += 1
    return prefixed(pairs, theirs, ours)


def vae(
    *,
    num_levels: int,
    layers_per_block: int,
    attention_levels: Collection[int] = (),
    theirs: str = "first_stage_model.",
    ours: str = "vae.",
) -> NameTable:
    """Table of an LDM autoencoder (KL) -> `diffusers.AutoencoderKL`."""
    pairs = vae_pairs(num_levels=num_levels, layers_per_block=layers_per_block, attention_levels=attention_levels)
    convolutions = [theirs + path for path, name in pairs if ".to_" in name]  # q, k, v and the output of attention
    return NameTable(prefixed(pairs, theirs, ours), [squeeze_1x1(convolutions)])


def vae_pairs(*, num_levels: int, layers_per_block: int, attention_levels: Collection[int] = ()) -> Pairs:
    """Module paths of an LDM autoencoder and of `diffusers.AutoencoderKL`, without prefixes.

    LDM numbers the decoder's levels from the finest, diffusers in order of use.
    """
    pairs: Pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    for half, side, layers in (("encoder", "down", layers_per_block), ("decoder", "up", layers_per_block + 1)):
        pairs += [(f"{half}.conv_in", f"{half}.conv_in"), (f"{half}.conv_out", f"{half}.conv_out")]
        pairs += [(f"{half}.norm_out", f"{half}.conv_norm_out")]
        for level in range(num_levels):
            theirs = f"{half}.{side}.{level}"
            ours = f"{half}.{side}_blocks.{level if side == 'down' else num_levels - 1 - level}"
            for layer in range(layers):
                pairs += _vae_resnet(f"{theirs}.block.{layer}", f"{ours}.resnets.{layer}")
                if level in attention_levels:
                    pairs += _vae_attention(f"{theirs}.attn.{layer}", f"{ours}.attentions.{layer}")
            pairs.append((f"{theirs}.{side}sample.conv", f"{ours}.{side}samplers.0.conv"))
        pairs += _vae_resnet(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0")
        pairs += _vae_attention(f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0")
        pairs += _vae_resnet(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1")
    return pairs


def attention_levels(attention_resolutions: Collection[int], num_levels: int) -> tuple[int, ...]:
    """Levels with transformers, from LDM's `attention_resolutions`, which are downsampling factors."""
    return tuple(level for level in range(num_levels) if 2**level in attention_resolutions)


def unet_arguments(
    *,
    in_channels: int,
    out_channels: int,
    model_channels: int,
    num_res_blocks: int,
    attention_resolutions: Collection[int],
    channel_mult: Sequence[int],
    context_dim: int,
    num_heads: int = -1,
    num_head_channels: int = -1,
    transformer_depth: int = 1,
    use_linear_in_transformer: bool = False,
) -> dict[str, Any]:
    """Constructor arguments of `diffusers.UNet2DConditionModel`, from those of LDM's `UNetModel`."""
    channels = [model_channels * multiple for multiple in channel_mult]
    levels = attention_levels(attention_resolutions, len(channels))
    with_attention = [level in levels for level in range(len(channels))]
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": channels,
        "layers_per_block": num_res_blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in with_attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(with_attention)],
        "cross_attention_dim": context_dim,
        # diffusers calls the number of heads `attention_head_dim` here.
        "attention_head_dim": num_heads if num_head_channels == -1 else [c // num_head_channels for c in channels],
        "transformer_layers_per_block": transformer_depth,
        "use_linear_projection": use_linear_in_transformer,
    }


def vae_arguments(ddconfig: Mapping[str, Any], embed_dim: int) -> dict[str, Any]:
    """Constructor arguments of `diffusers.AutoencoderKL`, from LDM's `ddconfig` and `embed_dim`."""
    if embed_dim != ddconfig["z_channels"] or not ddconfig["double_z"]:
        got = f"embed_dim {embed_dim}, z_channels {ddconfig['z_channels']}, double_z {ddconfig['double_z']}"
        raise ValueError(f"expected double_z and embed_dim = z_channels, as diffusers builds it, got {got}")
    channels = [ddconfig["ch"] * multiple for multiple in ddconfig["ch_mult"]]
    sizes = [ddconfig["resolution"] // 2**level for level in range(len(channels))]
    attends = ["Attn" if size in ddconfig["attn_resolutions"] else "" for size in sizes]
    return {
        "in_channels": ddconfig["in_channels"],
        "out_channels": ddconfig["out_ch"],
        "block_out_channels": channels,
        "layers_per_block": ddconfig["num_res_blocks"],
        "latent_channels": embed_dim,
        "sample_size": ddconfig["resolution"],
        "down_block_types": [f"{attn}DownEncoderBlock2D" for attn in attends],
        "up_block_types": [f"{attn}UpDecoderBlock2D" for attn in reversed(attends)],
    }


def prefixed(pairs: Pairs, theirs: str, ours: str) -> Pairs:
    """The same pairs under two prefixes."""
    return [(theirs + path, ours + name) for path, name in pairs]


def _resnet(theirs: str, ours: str) -> Pairs:
    return prefixed(RESNET, f"{theirs}.", f"{ours}.")


def _vae_resnet(theirs: str, ours: str) -> Pairs:
    return [(theirs, ours), (f"{theirs}.nin_shortcut", f"{ours}.conv_shortcut")]


def _vae_attention(theirs: str, ours: str) -> Pairs:
    return prefixed(ATTENTION, f"{theirs}.", f"{ours}.")
