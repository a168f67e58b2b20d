"""Golden fixtures: what the official code computes, and the rule that regenerates its weights from their names.

`TURNTABLE_GOLDEN` names the folder (default: `tests/golden` beside this file), so that a second set of fixtures, made
with other tiny configurations, passes through the same tests.
"""

import json
import math
import os
import re
import zlib
from collections.abc import Container, Mapping, Sequence
from itertools import combinations, pairwise
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


def named(data: Mapping[str, Tensor], prefix: str) -> dict[int, Tensor]:
    """Tensors called `prefix` and a number, by that number, ascending ("step_noise_2" before "step_noise_10")."""
    numbers = {name.removeprefix(prefix): name for name in data if name.startswith(prefix)}
    return {int(number): data[numbers[number]] for number in sorted(filter(str.isdecimal, numbers), key=int)}


def views_of(name: str, meaning: str, count: int, num_views: int) -> list[int]:
    """The `count` views, below `num_views`, that a tensor's name ends in: 1 and 2 in "views12", 9 and 11 in "views911".

    Where such a name can be read in more than one way, `meaning` ("... for views 1,12") decides.
    """
    digits = name[len(name.rstrip("0123456789")) :]
    cuts = [(0, *inner, len(digits)) for inner in combinations(range(1, len(digits)), count - 1)]
    readings = [[digits[a:b] for a, b in pairwise(cut)] for cut in cuts]
    plain = [[int(part) for part in parts] for parts in readings if all(part == str(int(part)) for part in parts)]
    found = [views for views in plain if max(views) < num_views and len(set(views)) == count]
    told = [int(number) for number in re.findall(r"\d+", meaning)]
    if len(found) > 1:
        runs = [told[start : start + count] for start in range(len(told))]
        found = [views for views in found if views in runs]
    if len(found) != 1:
        raise ValueError(f"expected {count} of {num_views} views in the name {name!r} ({meaning!r}), found {found}")
    return found[0]
