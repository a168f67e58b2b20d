"""Training and evaluation mode of a module's parts."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Within it the module is in evaluation mode; afterwards each part is as it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
