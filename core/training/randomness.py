"""Randomness as a function, not a state.

Whatever step `s` of a run draws (the order of samples, noise, timesteps, drops) comes from a generator that is seeded
by a hash of (seed, step, rank, stream). Nothing has to be saved, so a run killed anywhere continues bit for bit.
"""

import hashlib
from functools import lru_cache

import torch
from torch import Tensor


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any names and numbers; equal parts give equal seeds, in every process and version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(
    seed: int, step: int, rank: int = 0, stream: str = "noise", device: torch.device | str = "cpu"
) -> torch.Generator:
    """The generator of one step of one rank; `stream` keeps independent draws of a step apart."""
    return torch.Generator(device).manual_seed(derive(seed, step, rank, stream))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_items: int) -> Tensor:
    """The order in which an epoch visits its items, [num_items] int64."""
    return torch.randperm(num_items, generator=generator(seed, epoch, stream="order"))


def batch_indices(seed: int, step: int, rank: int, world_size: int, batch_size: int, num_items: int) -> list[int]:
    """The items that `rank` reads at `step`: `batch_size` of them.

    All ranks together walk through one endless list of shuffled epochs, so each item comes once per epoch for any world
    size and batch size, and a batch may reach over the end of an epoch.
    """
    start = (step * world_size + rank) * batch_size
    places = (divmod(place, num_items) for place in range(start, start + batch_size))
    return [int(epoch_order(seed, epoch, num_items)[offset]) for epoch, offset in places]
