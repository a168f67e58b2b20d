"""The small networks of a scene, and the functions that settings name."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.config import suggestion
from core.errors import BadConfig
from core.srgb import to_srgb

EXP_LIMIT = 15.0  # trunc_exp's slope grows no further


def mlp(in_dim: int, out_dim: int, *, hidden_dim: int = 64, num_hidden: int = 1) -> nn.Sequential:
    """Linear layers without biases, with ReLU between them."""
    widths = [in_dim, *[hidden_dim] * num_hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], out_dim, bias=False))


def full_precision(device: torch.device) -> torch.autocast:
    """Within it a scene computes in 32 bits, whatever precision a run has: threestudio too has no autocast there."""
    return torch.autocast(device.type, enabled=False)


def safe_norm(vectors: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """Lengths whose gradient is 0, not NaN, at the zero vector."""
    return vectors.square().sum(-1).clamp(min=1e-24).sqrt()


def safe_normalize(vectors: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """F.normalize, but shorter vectors than 1e-12 have the gradient 0 instead of 1e12."""
    long = vectors.square().sum(-1, keepdim=True) > 1e-24
    unit = F.normalize(torch.where(long, vectors, 1.0), dim=-1)
    return torch.where(long, unit, vectors.detach() * 1e12)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.clamp(max=EXP_LIMIT).exp()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "exp": torch.exp,
    "shifted_exp": lambda x: (x - 1).exp(),
    "trunc_exp": _TruncatedExp.apply,
    "shifted_trunc_exp": lambda x: _TruncatedExp.apply(x - 1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "shifted_softplus": lambda x: F.softplus(x - 1),
    "lin2srgb": lambda x: to_srgb(x).clamp(0, 1),
    "scale_-11_01": lambda x: x * 0.5 + 0.5,
}
OF_TORCH = ("softplus", "relu", "elu", "gelu", "silu", "leaky_relu", "softsign", "mish")  # pointwise, without arguments


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The pointwise function that threestudio's settings call `name`.

    Raises:
        BadConfig: there is none of that name.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if name in OF_TORCH:
        return getattr(F, name)
    raise BadConfig(f"unknown activation {name!r}; {suggestion(name, [*ACTIVATIONS, *OF_TORCH])}")
