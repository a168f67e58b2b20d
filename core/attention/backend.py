"""Scaled dot-product attention, by name: `torch` (PyTorch's own kernels) or `xformers` (an optional CUDA package)."""

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
        try:
            from xformers.ops import memory_efficient_attention
        except ImportError as error:
            raise BadConfig(f"attention backend xformers is not usable ({error}); choose backend=torch") from error
        q, k, v = (rearrange(x, "b h l d -> b l h d") for x in (q, k, v))
        return rearrange(memory_efficient_attention(q, k, v), "b l h d -> b h l d")
    raise BadConfig(f"unknown attention backend {backend!r}; choose one of {', '.join(BACKENDS)}")
