"""One optimiser step: micro-batches, gradients, clipping, update. What is not finite changes nothing."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric

from core.training.module import TrainingModule
from core.training.randomness import derive, generator


@dataclass(frozen=True)
class Outcome:
    """What a step did, the same on every rank."""

    values: dict[str, float]  # means of the loss's terms over micro-batches and ranks
    grad_norm: float
    lr: float  # of the first group
    clipped: bool
    finite: bool
    flags: tuple[int, ...]  # the largest of the ranks' flags


class Stepper:
    """Takes optimiser steps; a step's draws depend on (seed, step, rank, micro-batch) alone."""

    def __init__(
        self, fabric: Fabric, module: TrainingModule, optimizer: torch.optim.Optimizer, clip_norm: float | None
    ) -> None:
        self.fabric = fabric
        self.module = module
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.wrapped, self.wrapped_optimizer = fabric.setup(module, optimizer)
        self.wrapped.mark_forward_method("loss")

    def take(self, step: int, seed: int, batches: Sequence[Mapping[str, Any]], flags: Sequence[int]) -> Outcome:
        """Learns from `batches`, whose losses are averaged. `flags` are whole numbers that the ranks must agree on."""
        factor = self.module.schedule(step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches):
            for name, value in self._backward(step, seed, number, batch, len(batches)).items():
                sums[name] = sums.get(name, 0.0) + value / len(batches)
        norm = self._clip()
        finite = math.isfinite(norm) and math.isfinite(sums["loss"])
        values, (broken, *agreed) = self._agree(sums, [int(not finite), *flags])
        if not broken:
            self.wrapped_optimizer.step()
        clipped = self.clip_norm is not None and norm > self.clip_norm
        lr = self.optimizer.param_groups[0]["lr"]
        return Outcome(values, norm, lr, clipped and not broken, not broken, tuple(agreed))

    def _backward(self, step: int, seed: int, number: int, batch: Mapping[str, Any], count: int) -> dict[str, float]:
        rank = self.fabric.global_rank
        draw = generator(seed, step, rank, stream=f"noise/{number}", device=self.module.device)
        torch.manual_seed(derive(seed, step, rank, f"global/{number}"))  # for dropout, which takes no generator
        with self.fabric.no_backward_sync(self.wrapped, enabled=number < count - 1):
            terms = self.wrapped.loss(self.fabric.to_device(batch), draw)
            self.fabric.backward(terms["loss"] / count)
        return {name: float(value.detach()) for name, value in terms.items()}

    def _clip(self) -> float:
        """Scales the gradients down to `clip_norm`; returns their norm before."""
        most = self.clip_norm if self.clip_norm is not None else math.inf
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))

    def _agree(self, values: dict[str, float], flags: list[int]) -> tuple[dict[str, float], list[int]]:
        """The ranks' mean of `values`, which all name in the same order, and largest of `flags`."""
        if self.fabric.world_size == 1:
            return values, flags
        device = self.fabric.device
        named = zlib.crc32("\n".join(values).encode())
        most = torch.tensor([named, -named, *flags], device=device)
        torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        largest, smallest, *flags = most.tolist()
        if largest != -smallest:
            raise RuntimeError(
                f"the ranks' losses have different terms in this step; rank {self.fabric.global_rank} has "
                f"{', '.join(values)}"
            )
        means = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
        torch.distributed.all_reduce(means)
        means /= self.fabric.world_size
        return dict(zip(values, means.tolist(), strict=True)), flags
