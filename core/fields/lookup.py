"""Weighted sums of rows of a table, quick in both directions and differentiable as often as one likes.

    interpolate(table, weights, index)_b = sum_c weights_bc table[index_bc]

Contracted with a gradient g of the sums this is a form T(table, weights, g), linear in each of its three arguments; the
three functions below are its partial derivatives, and the derivative of each is made of the other two. So gradients of
gradients (a normal's, with respect to the table) take the same kernels as the sums themselves.

The kernels: one `embedding_bag` gathers and sums without storing what it gathers; pairs of features are read and added
as one complex number, because torch scatters single numbers some fifty times faster than short rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function

CACHED = 1 << 17  # places that are scattered together


def interpolate(
    table: Float[Tensor, "rows features"], weights: Float[Tensor, "b corners"], index: Int[Tensor, "b corners"]
) -> Float[Tensor, "b features"]:
    """sum_c weights_bc table[index_bc]; `index` is int32, each entry in [0, rows)."""
    return _Sum.apply(table, weights, index)


class _Sum(Function):
    """dT/dg: the sums."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(table, weights, index)
        return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, weights, index = ctx.saved_tensors
        for_table, for_weights, _ = ctx.needs_input_grad
        return (
            _Scatter.apply(weights, gradient, index, len(table)) if for_table else None,
            _Dot.apply(table, gradient, index) if for_weights else None,
            None,
        )


class _Scatter(Function):
    """dT/dtable: every row collects weight times gradient of the sums it was part of."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, gradient: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(weights, gradient, index)
        total = gradient.new_zeros(rows, gradient.shape[1])
        count = CACHED // 8 if index.device.type == "cpu" else max(len(index), 1)
        for rows_, shares, part in zip(index.split(count), weights.split(count), gradient.split(count), strict=True):
            where = rows_.reshape(-1).long()
            for into, of in zip(_columns(total), _columns(part.contiguous()), strict=True):
                into.scatter_add_(0, where, (shares * of[:, None]).reshape(-1))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, inner, index = ctx.saved_tensors
        for_weights, for_inner, *_ = ctx.needs_input_grad
        return (
            _Dot.apply(gradient, inner, index) if for_weights else None,
            _Sum.apply(gradient, weights, index) if for_inner else None,
            None,
            None,
        )


class _Dot(Function):
    """dT/dweights: the product of each row that was read with its sum's gradient."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, gradient: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(table, gradient, index)
        total = gradient.new_zeros(index.shape)
        for row, of in zip(_columns(table.contiguous()), _columns(gradient.contiguous()), strict=True):
            read = row.index_select(0, index.reshape(-1)).view(index.shape)
            total += (read * of.conj()[:, None]).real if read.is_complex() else read * of[:, None]
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        table, inner, index = ctx.saved_tensors
        for_table, for_inner, _ = ctx.needs_input_grad
        return (
            _Scatter.apply(gradient, inner, index, len(table)) if for_table else None,
            _Sum.apply(table, gradient, index) if for_inner else None,
            None,
        )


def _columns(rows: Float[Tensor, "n features"]) -> tuple[Tensor, ...]:
    """Views [n] of the features: two at a time as complex numbers where their count is even."""
    if rows.shape[1] % 2 == 0:
        rows = torch.view_as_complex(rows.view(len(rows), rows.shape[1] // 2, 2))
    return rows.unbind(1)
