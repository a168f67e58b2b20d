"""Checkpoint files for tests, and what is asked about them."""

import json

import pytest
import torch

from core.checkpoints.load import read_checkpoint
from core.errors import BadCheckpoint


def weights():
    torch.manual_seed(0)
    return {"layer.weight": torch.randn(4, 3), "layer.bias": torch.randn(4)}


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].dtype == tensor.dtype and torch.equal(state[name], tensor), name


def refused(path, match, **options):
    """BadCheckpoint in one line, which names the file."""
    with pytest.raises(BadCheckpoint, match=match) as caught:
        read_checkpoint(path, **options)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]
