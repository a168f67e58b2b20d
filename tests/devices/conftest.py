"""A GPU, real or pretended, and what must hold of what it made."""

from collections.abc import Iterator

import pytest
import torch

from tests.devices import pretended


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The test computes on it: a real one, or where there is none a pretended one."""
    with pretended.gpu() as device:
        yield device
