"""Depth-wise attention: each pixel attends to the samples of a feature volume along its own ray.

Liu et al. 2023, SyncDreamer, section 4.2 and figure 4.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

NUM_GROUPS = 8


def depth_attention(
    q: Float[Tensor, "b c h w"], k: Float[Tensor, "b c d h w"], v: Float[Tensor, "b c d h w"], num_heads: int
) -> Float[Tensor, "b c h w"]:
    """The plain definition: per pixel and head, softmax over the depth samples."""
    q, k, v = (rearrange(x, "b (n c) ... -> b n c ...", n=num_heads) for x in (q, k, v))
    logits = torch.einsum("b n c h w, b n c d h w -> b n d h w", q, k) * q.shape[2] ** -0.5
    mixed = torch.einsum("b n d h w, b n c d h w -> b n c h w", logits.softmax(dim=2), v)
    return rearrange(mixed, "b n c h w -> b (n c) h w")


def folded_depth_attention(
    q: Float[Tensor, "b c h w"],
    context: Float[Tensor, "b e d h w"],
    to_k: Float[Tensor, "c e"],
    to_v: Float[Tensor, "c e"],
    num_heads: int,
) -> Float[Tensor, "b c h w"]:
    """The same with the key projection folded into the query and the value projection applied after the sum.

    q (K x) = (K^T q) x and sum_d a_d (V x_d) = V (sum_d a_d x_d): nothing of size [c, d, h, w] is ever built.
    """
    q = rearrange(q, "b (n c) h w -> b n c h w", n=num_heads)
    to_k, to_v = (rearrange(weight, "(n c) e -> n c e", n=num_heads) for weight in (to_k, to_v))
    query = torch.einsum("b n c h w, n c e -> b n e h w", q, to_k) * q.shape[2] ** -0.5
    logits = torch.einsum("b n e h w, b e d h w -> b n d h w", query, context)
    mixed = torch.einsum("b n d h w, b e d h w -> b n e h w", logits.softmax(dim=2), context)
    return rearrange(torch.einsum("b n e h w, n c e -> b n c h w", mixed, to_v), "b n c h w -> b (n c) h w")


class DepthTransformer(nn.Module):
    """Adds to a feature map what its rays see in a view frustum volume."""

    def __init__(
        self,
        *,
        channels: int,
        context_channels: int,
        num_heads: int = 4,
        head_dim: int | None = None,
        folded: bool = True,
    ) -> None:
        """
        Args:
            channels: of the feature map.
            context_channels: of the volume.
            head_dim: None takes half the volume's channels, as published.
            folded: the fast way; same numbers.
        """
        super().__init__()
        inner = num_heads * (context_channels // 2 if head_dim is None else head_dim)
        self.num_heads = num_heads
        self.context_channels = context_channels
        self.folded = folded
        self.proj_in = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.GroupNorm(NUM_GROUPS, inner), nn.SiLU())
        self.proj_context = nn.Sequential(
            nn.Conv3d(context_channels, context_channels, 1, bias=False),
            nn.GroupNorm(NUM_GROUPS, context_channels),
            nn.ReLU(),
        )
        self.to_q = nn.Conv2d(inner, inner, 1, bias=False)
        self.to_k = nn.Conv3d(context_channels, inner, 1, bias=False)
        self.to_v = nn.Conv3d(context_channels, inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, inner, 1, bias=False)
        last = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        nn.init.zeros_(last.weight)  # the published model starts as the plain UNet
        self.proj_out = nn.Sequential(
            nn.GroupNorm(NUM_GROUPS, inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.GroupNorm(NUM_GROUPS, inner),
            nn.ReLU(),
            last,
        )

    def attend(self, x: Float[Tensor, "b inner h w"], context: Float[Tensor, "b e d h w"]) -> Tensor:
        """Depth attention between a projected feature map and a projected volume."""
        q = self.to_q(x)
        if self.folded:
            to_k, to_v = self.to_k.weight.flatten(1), self.to_v.weight.flatten(1)
            return self.to_out(folded_depth_attention(q, context, to_k, to_v, self.num_heads))
        return self.to_out(depth_attention(q, self.to_k(context), self.to_v(context), self.num_heads))

    def residual(self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b e d h w"]) -> Float[Tensor, "b c h w"]:
        """What the block adds to `x`."""
        return self.proj_out(self.attend(self.proj_in(x), self.proj_context(context)))

    def empty_residual(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "1 c h w"]:
        """What the block adds for an all-zero volume: a constant of the weights and the map's size.

        Quirk: the context's GroupNorm has a bias, so the published model's unconditional branch is not zero here. All
        depth samples are then alike, so one stands for all, queries drop out and any `x` gives the same residual.
        """
        context = x.new_zeros(1, self.context_channels, 1, *x.shape[-2:])
        return self.residual(torch.zeros_like(x[:1]), context)

    def forward(self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b e d h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.residual(x, context)
