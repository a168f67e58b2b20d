"""Evaluate a function of many points in parts, and again in the backward pass instead of keeping what it computed.

Memory then holds one part at a time, for one more evaluation; the gradients are the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]


def in_parts(function: Function, inputs: Sequence[Tensor], *, chunk: int) -> tuple[Tensor, ...]:
    """function(*inputs), where each row of the outputs depends on that row of the inputs, `chunk` rows at a time."""
    parts = [function(*part) for part in _split(inputs, chunk)]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def recomputed(
    function: Function, inputs: Sequence[Tensor], parameters: Sequence[Tensor], *, chunk: int
) -> tuple[Tensor, ...]:
    """`in_parts`, without keeping anything for the backward pass.

    Args:
        inputs: get no gradients.
        parameters: all that `function` depends on besides, and that wants gradients.
    """
    return _Recomputed.apply(function, chunk, len(inputs), *inputs, *parameters)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, chunk: int, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.function, ctx.chunk, ctx.count = function, chunk, count
        ctx.save_for_backward(*tensors)
        with torch.no_grad():
            return in_parts(function, tensors[:count], chunk=chunk)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, parameters = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        wanted = [p for p, needed in zip(parameters, ctx.needs_input_grad[3 + ctx.count :], strict=True) if needed]
        totals = [torch.zeros_like(parameter) for parameter in wanted]
        for part, of in zip(_split(inputs, ctx.chunk), _split(gradients, ctx.chunk), strict=True):
            with torch.enable_grad():
                outputs = ctx.function(*part)
            reached = [(out, g) for out, g in zip(outputs, of, strict=True) if out.requires_grad]
            if not reached:
                continue
            outputs, of = zip(*reached, strict=True)
            for total, more in zip(totals, torch.autograd.grad(outputs, wanted, of, allow_unused=True), strict=True):
                if more is not None:
                    total += more
        each = iter(totals)
        needed = ctx.needs_input_grad[3 + ctx.count :]
        return (None, None, None, *[None] * ctx.count, *(next(each) if n else None for n in needed))


def _split(tensors: Sequence[Tensor], chunk: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(tensor.split(chunk) for tensor in tensors), strict=True))
