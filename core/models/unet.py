"""An explicit walk through a stock diffusers UNet, with places where a multi-view model adds its own condition."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, cat, nn
from torch.utils.checkpoint import checkpoint

from core.attention.multiview import use_self_attention, use_single_token_cross_attention


def single_token_unet(unet: UNet2DConditionModel, attention: str) -> UNet2DConditionModel:
    """The UNet, whose cross-attention to one token is the constant that it is, with a kernel for its self-attention
    (`core.attention.backend`)."""
    use_single_token_cross_attention(unet)
    if attention != "torch":
        use_self_attention(unet, attention)
    return unet


def pose_projection(context_dim: int, pose_dim: int) -> nn.Linear:
    """Joins an image's token with a pose, as Zero-1-to-3 does (Liu et al. 2023, arXiv 2303.11328).

    At first the token passes unchanged, and the pose comes in by nn.Linear's own small weights.
    """
    layer = nn.Linear(context_dim + pose_dim, context_dim)
    with torch.no_grad():
        layer.weight[:, :context_dim] = torch.eye(context_dim)
        layer.bias.zero_()
    return layer


def walk_unet(
    unet: UNet2DConditionModel,
    sample: Float[Tensor, "b c h w"],
    timesteps: Int[Tensor, "b"],
    context: Float[Tensor, "b l e"],
    *,
    added_embedding: Float[Tensor, "b d"] | None = None,
    attention_options: Mapping[str, Any] | None = None,
    after_middle: Callable[[Tensor], Tensor] = lambda x: x,
    after_up_layer: Callable[[Tensor, int], Tensor] = lambda x, layer: x,
    recompute: bool = False,
) -> Float[Tensor, "b c_out h w"]:
    """Predict like `unet(sample, timesteps, context)`; `after_middle` and `after_up_layer(x, layer)` change x midway.

    Decoder layers are counted from 0 at the deepest; where a layer ends a level it includes the upsampler. With
    `recompute`, activations of each layer are recomputed in the backward pass instead of kept.

    Args:
        added_embedding: joins the embedding of the timestep, such as a camera's.
        attention_options: what diffusers calls `cross_attention_kwargs`; the attention processors read them.
    """
    options = dict(attention_options) if attention_options else None

    def run(layer: Callable, *inputs: Any) -> Tensor:
        return checkpoint(layer, *inputs, use_reentrant=False) if recompute else layer(*inputs)

    def attend(layer, x: Tensor) -> Tensor:
        return run(
            lambda x, context: layer(
                x, encoder_hidden_states=context, return_dict=False, cross_attention_kwargs=options
            )[0],
            x,
            context,
        )

    # One timestep for all, as an expanded tensor, is embedded once: layers add the one row to every sample.
    distinct = timesteps[:1] if timesteps.stride(0) == 0 else timesteps
    embedding = unet.time_embedding(unet.time_proj(distinct).to(sample.dtype))
    embedding = embedding if added_embedding is None else embedding + added_embedding

    x = unet.conv_in(sample)
    skips = [x]
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for resnet, attention in zip(block.resnets, attentions, strict=True):
            x = run(resnet, x, embedding)
            x = x if attention is None else attend(attention, x)
            skips.append(x)
        for downsampler in block.downsamplers or ():
            x = downsampler(x)
            skips.append(x)

    x = run(unet.mid_block.resnets[0], x, embedding)
    for attention, resnet in zip(unet.mid_block.attentions, unet.mid_block.resnets[1:], strict=True):
        x = run(resnet, attend(attention, x), embedding)
    x = after_middle(x)

    layer = 0
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for index, (resnet, attention) in enumerate(zip(block.resnets, attentions, strict=True)):
            x = run(resnet, cat([x, skips.pop()], dim=1), embedding)
            x = x if attention is None else attend(attention, x)
            if index == len(block.resnets) - 1:
                for upsampler in block.upsamplers or ():
                    x = upsampler(x)
            x = after_up_layer(x, layer)
            layer += 1
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
