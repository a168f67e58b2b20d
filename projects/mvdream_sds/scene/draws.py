"""Where a step's random numbers come from: all that a scene draws goes through one of these, in the published order.

`Seeded` takes a generator that is itself a function of (seed, step); `Upstream` takes the generators of the process, as
the official program does: Python's for coins, torch's for tensors.
"""

import random
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Draws(Protocol):
    """A source of random numbers; tensors are made on the CPU."""

    def coin(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def uniform(self, *shape: int) -> Float[Tensor, "*shape"]:
        """Uniform in [0, 1)."""
        ...

    def normal(self, *shape: int) -> Float[Tensor, "*shape"]:
        """Standard normal."""
        ...


class Seeded:
    """From one generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def coin(self) -> float:
        return torch.rand((), generator=self.generator, device=self.generator.device, dtype=torch.float64).item()

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device).cpu()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.generator.device).cpu()


class Upstream:
    """From the process's own generators, as `random.seed` and `torch.manual_seed` left them."""

    def coin(self) -> float:
        return random.random()

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape)
