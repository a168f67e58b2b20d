"""Running average of weights (Polyak and Juditsky 1992), with the warm-up that diffusion models use."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


def decay_at(updates: int, decay: float) -> float:
    """Decay of an update after `updates` earlier ones: short memory first, so that the start is soon forgotten."""
    return min(decay, (1 + updates) / (10 + updates))


class EMA:
    """average <- decay * average + (1 - decay) * value, over named float parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters = dict(parameters)
        self.averages = {name: value.detach().float().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters' present values in."""
        decay = decay_at(self.updates, self.decay)
        for name, average in self.averages.items():
            average.lerp_(self.parameters[name].detach().to(average), 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model computes with the averages."""
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.copy_to_model(self.averages)
        try:
            yield
        finally:
            self.copy_to_model(trained)

    @torch.no_grad()
    def copy_to_model(self, values: Mapping[str, Tensor]) -> None:
        """Overwrites the model's parameters."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
