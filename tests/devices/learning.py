"""What tests of systems on a GPU share: steps of a training, and the precision that a network really computes in."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from core.device import PRECISIONS as NAMES
from core.training.randomness import generator

SLOW = pytest.mark.slow
PRECISIONS = ["bf16", *(pytest.param(precision, marks=SLOW) for precision in ("32", "16"))]


def batch_on(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def two_steps(
    system: Any, batch: dict[str, Any], device: torch.device, *, precision: torch.dtype | None = None
) -> dict[str, float]:
    """The terms of the second of two steps; the draws are the device's.

    All is on the device, the loss is finite, and the steps change every weight that has a gradient, and no frozen one.
    """
    system = system.to(device).train()
    before = {name: parameter.detach().clone() for name, parameter in system.named_parameters()}
    trained = {name: parameter for name, parameter in system.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=0.0)  # nothing but a gradient changes a weight
    reached: set[str] = set()  # by gradients that are more than rounding, as those of attention to a single word are
    for step in range(2):
        draw = generator(0, step, device=device)
        with torch.autocast("cuda", precision, enabled=precision is not None):
            terms = system.loss(batch_on(device, batch), draw)
        optimizer.zero_grad()
        terms["loss"].backward()
        reached |= {
            name for name, weight in trained.items() if weight.grad is not None and weight.grad.abs().max() > 1e-6
        }
        optimizer.step()
    after = dict(system.named_parameters())
    assert all(weight.device == device and weight.isfinite().all() for weight in after.values())
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert reached and reached <= changed <= trained.keys()
    made = {name: float(value.detach()) for name, value in terms.items()}
    assert math.isfinite(made["loss"])
    return made


@contextmanager
def computing_in(precision: str, unet: nn.Module) -> Iterator[None]:
    """Within it the UNet is used, on the GPU, and its first layer's results are in this precision."""
    seen: set[tuple[str, torch.dtype]] = set()
    with unet.conv_in.register_forward_hook(lambda layer, given, made: seen.add((made.device.type, made.dtype))):
        yield
    assert seen == {("cuda", getattr(torch, NAMES[precision]))}
