"""Scaled dot-product attention, by name.

`torch`: PyTorch's fused kernels. `eager`: the two products written out, which trains faster on a CPU where there are
few tokens. `xformers`: an optional CUDA package.
"""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.errors import BadConfig

BACKENDS = ("torch", "eager", "xformers")


def attention(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"], *, backend: str = "torch"
) -> Float[Tensor, "b h l d"]:
    """softmax(q k^T / sqrt(d)) v."""
    check_backend(backend)
    if backend == "torch":
        return F.scaled_dot_product_attention(q, k, v)
    if backend == "eager":
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype) @ v
    q, k, v = (rearrange(x, "b h l d -> b l h d") for x in (q, k, v))
    return rearrange(xformers_attention()(q, k, v), "b l h d -> b h l d")


def check_backend(backend: str) -> None:
    """BadConfig for a backend that is unknown, or not usable here."""
    if backend not in BACKENDS:
        raise BadConfig(f"unknown attention backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    if backend == "xformers":
        xformers_attention()


def xformers_attention() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """xformers' kernel over [b, l, h, d]; BadConfig where the package is missing or broken."""
    try:
        from xformers.ops import memory_efficient_attention
    except (ImportError, OSError) as error:  # a build for another torch fails as either
        raise BadConfig(
            f"attention=xformers is not usable here ({error}); choose attention=torch, or install it: "
            "pip install -c constraints.txt -e '.[cuda]'"
        ) from error
    return memory_efficient_attention
