"""Scaled dot-product attention, by name: `torch` (PyTorch's own kernels) or `xformers` (an optional CUDA package)."""

from collections.abc import Callable

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.errors import BadConfig

BACKENDS = ("torch", "xformers")


def attention(
    q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h m d"], v: Float[Tensor, "b h m d"], *, backend: str = "torch"
) -> Float[Tensor, "b h l d"]:
    """softmax(q k^T / sqrt(d)) v."""
    if backend == "torch":
        return F.scaled_dot_product_attention(q, k, v)
    if backend == "xformers":
        q, k, v = (rearrange(x, "b h l d -> b l h d") for x in (q, k, v))
        return rearrange(xformers_attention()(q, k, v), "b l h d -> b h l d")
    raise BadConfig(f"unknown attention backend {backend!r}; choose one of {', '.join(BACKENDS)}")


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
