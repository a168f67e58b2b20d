"""Numbers that change on the way: threestudio's schedules."""

import math
from collections.abc import Sequence
from typing import Any

from core.errors import BadConfig

Schedule = float | int | Sequence[float | int]


def annealed(value: Schedule, step: int, epoch: int = 0) -> float:
    """The value of a schedule at a step: C(value, epoch, step).

    Args:
        value: a number, which stays; or [start, first, last, end]: from `first` at `start` on a line to `last` at
            `end`, and constant before and after. [first, last, end] starts at 0. An `end` that is a whole number counts
            steps, another one (2.0) epochs.

    Raises:
        BadConfig: anything else, by `check_schedule`.
    """
    check_schedule("schedule", value)
    if isinstance(value, int | float):
        return float(value)
    start, first, last, end = value if len(value) == 4 else (0, *value)
    now = step if isinstance(end, int) else epoch
    part = min(max((now - start) / (end - start), 0.0), 1.0)
    return first + (last - first) * part


def check_schedule(key: str, value: Any) -> None:
    """Refuses what `annealed` cannot read, by a BadConfig that names `key`."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = list(value) if listed else [value]
    if len(numbers) not in ((3, 4) if listed else (1,)) or not all(map(_is_number, numbers)):
        raise BadConfig(f"{key}={value}: expected a number, [first, last, end] or [start, first, last, end]")
    start = numbers[0] if len(numbers) == 4 else 0
    if listed and not numbers[-1] > start:
        raise BadConfig(f"{key}={value}: the schedule must end after its start {start}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
