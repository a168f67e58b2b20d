"""Batches as a function of the step.

A loader starts at any step and yields what an uninterrupted run would have yielded there. One item of it is everything
that one optimiser step of one rank reads: a list of `accumulate` micro-batches.
"""

import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from core.errors import BadData, UserError
from core.training.randomness import batch_indices, generator

SUBSTITUTES = 8  # other items tried in place of a broken one
SMALL_SHARED_MEMORY = 512 * 2**20  # bytes; Docker gives 64 MiB
WORKER_GRACE_S = 60  # a signalled worker outlives the main process's last step and save


Broken = tuple[int, str]  # index and cause
Sample = tuple[Mapping[str, Tensor] | None, list[Broken]]


@runtime_checkable
class Items(Protocol):
    """A map-style data set whose items may draw: `generator` belongs to this item at this step alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, generator: torch.Generator) -> Mapping[str, Tensor]: ...


@runtime_checkable
class ItemsByStep(Protocol):
    """Items that are of one kind throughout a step; `generator` belongs to the step, and is alike on all ranks."""

    def __len__(self) -> int: ...

    def of_step(self, generator: torch.Generator) -> Items: ...


@dataclass(frozen=True)
class Plan:
    """What decides which items a rank reads at a step."""

    seed: int
    rank: int
    world_size: int
    batch_size: int
    accumulate: int

    def indices(self, step: int, num_items: int) -> list[int]:
        """The items of all micro-batches of a step."""
        return batch_indices(self.seed, step, self.rank, self.world_size, self.batch_size * self.accumulate, num_items)


class StepDataset(Dataset):
    """Reads item (step, index), and another item in place of one that is broken."""

    def __init__(self, items: Items | ItemsByStep, seed: int) -> None:
        self.items = items
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample (None when all substitutes are broken too), and the broken items met on the way to it."""
        step, index = key
        broken: list[Broken] = []
        draw = generator(self.seed, step, index, stream="substitute")
        items = self._of_step(step)
        for _ in range(1 + SUBSTITUTES):
            try:
                sample = items.__getitem__(index, generator(self.seed, step, index, stream="item"))
                return sample, broken
            except (UserError, OSError) as error:
                broken.append((index, f"{type(error).__name__}: {error}"))
                index = int(torch.randint(len(self.items), (), generator=draw))
        return None, broken  # an exception would reach the main process as a worker's traceback

    def _of_step(self, step: int) -> Items:
        if isinstance(self.items, ItemsByStep):
            return self.items.of_step(generator(self.seed, step, stream="items"))
        return self.items


class StepSampler:
    """The keys of each step's items, from `start` on, without end or up to `stop`."""

    def __init__(self, plan: Plan, num_items: int, start: int, stop: int) -> None:
        self.plan, self.num_items, self.start, self.stop = plan, num_items, start, stop

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            yield [(step, index) for index in self.plan.indices(step, self.num_items)]

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Collate:
    """Stacks a step's samples into micro-batches."""

    batch_size: int

    def __call__(self, samples: Sequence[Sample]) -> tuple[list[Any], list[Broken]]:
        content = [sample for sample, _ in samples]
        broken = [fault for _, faults in samples for fault in faults]
        if any(sample is None for sample in content):
            return [], broken
        cuts = range(0, len(content), self.batch_size)
        return [default_collate(content[cut : cut + self.batch_size]) for cut in cuts], broken


def train_loader(
    items: Items | ItemsByStep, plan: Plan, start: int, stop: int, workers: int, timeout_s: float
) -> DataLoader:
    """Yields (micro-batches, broken items) of the steps from `start` to `stop`; the same for any number of workers."""
    if len(items) == 0:
        raise BadData("the training set is empty; check data.train")
    if workers:
        _spare_shared_memory()
    return DataLoader(
        StepDataset(items, plan.seed),
        batch_sampler=StepSampler(plan, len(items), start, stop),  # type: ignore[arg-type]
        collate_fn=Collate(plan.batch_size),
        num_workers=workers,
        worker_init_fn=_start_worker if workers else None,
        timeout=timeout_s if workers else 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),  # else the loader draws a seed from the global state
    )


def _start_worker(worker: int) -> None:
    """Leaves signals to the main process, which stops at its step's end; a worker that is never released dies later."""
    _spare_shared_memory()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_GRACE_S))


def _spare_shared_memory() -> None:
    """Hands tensors over through files where /dev/shm is too small for them."""
    if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").total < SMALL_SHARED_MEMORY:
        torch.multiprocessing.set_sharing_strategy("file_system")
