"""Golden fixtures: what the official code computes, and the rule that regenerates its weights from their names.

`TURNTABLE_GOLDEN` names the folder (default: `tests/golden` beside this file), so that a second set of fixtures, made
with other tiny configurations, passes through the same tests.
"""

import json
import math
import os
import zlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def golden_root() -> Path:
    """Folder that holds `<system>/<name>.json`."""
    return Path(os.environ.get("TURNTABLE_GOLDEN") or Path(__file__).parent / "golden")


def load(system: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The json of a fixture, and its tensors (none for a fixture that is a list of keys)."""
    path = golden_root() / system / f"{name}.json"
    tensors = path.with_suffix(".safetensors")
    return json.loads(path.read_text(encoding="utf-8")), load_file(tensors) if tensors.exists() else {}


def rule_w_tensor(key: str, shape: Sequence[int]) -> Tensor:
    """The weight that rule W gives to the official key `key` (`tests/golden/README.md`)."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    noise = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    if key.endswith("running_var"):
        return 1 + 0.1 * noise.abs()
    if len(shape) >= 2:
        return noise / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * noise if key.endswith("weight") else 0.1 * noise


def rule_w(
    keys_and_shapes: Mapping[str, Sequence[int] | Tensor],
    exceptions: Mapping[str, Tensor] | Container[str] = (),
) -> dict[str, Tensor]:
    """A state dict filled by rule W.

    Args:
        keys_and_shapes: official key -> shape, or a state dict, whose integer tensors are then kept as they are.
        exceptions: keys that the rule does not touch. Given as a mapping its values are used; given as a set of names,
            the tensors of `keys_and_shapes` are kept, and names that come with a shape only are left out.
    """
    state = {}
    for key, value in keys_and_shapes.items():
        is_tensor = isinstance(value, Tensor)
        if key in exceptions:
            if isinstance(exceptions, Mapping):
                state[key] = exceptions[key]
            elif is_tensor:
                state[key] = value
        elif is_tensor and not value.is_floating_point():
            state[key] = value
        else:
            state[key] = rule_w_tensor(key, value.shape if is_tensor else value)
    return state
