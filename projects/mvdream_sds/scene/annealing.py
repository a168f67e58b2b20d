"""Numbers that change on the way: threestudio's schedules."""

import math
from collections.abc import Sequence
from typing import Any

from core.config import number
from core.errors import BadConfig

ROUNDING = 1e-9  # of a value that a schedule reaches

Schedule = float | int | Sequence[float | int]


def annealed(value: Schedule, step: int | float) -> float:
    """The value of a schedule at a step: C(value, step).

    Args:
        value: a number, which stays; or [start, first, last, end]: from `first` at `start` on a line to `last` at
            `end`, and constant before and after. [first, last, end] starts at 0.

    Raises:
        BadConfig: anything else, by `check_schedule`.
    """
    check_schedule("schedule", value)
    start, first, last, end = _knots(value)
    part = min(max((step - start) / (end - start), 0.0), 1.0)
    return first + (last - first) * part


def most(value: Schedule) -> float:
    """The highest value that a schedule has at any step."""
    _, first, last, _ = _knots(value)
    return float(max(first, last))


def check_schedule(key: str, value: Any) -> None:
    """Refuses what `annealed` cannot read, by a BadConfig that names `key`."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    numbers = list(value) if listed else [value]
    if len(numbers) not in ((3, 4) if listed else (1,)) or not all(map(_is_number, numbers)):
        raise BadConfig(f"{key}={value}: expected a number, [first, last, end] or [start, first, last, end]")
    if not listed:
        return
    start, _, _, end = _knots(value)
    # threestudio takes a fraction for an epoch's number, and 1e3 is one to a reader of settings. There are no epochs.
    if not isinstance(end, int):
        raise BadConfig(f"{key}={value}: the last number is a step; give it as a whole number, such as {end:.0f}")
    if not end > start:
        raise BadConfig(f"{key}={value}: the schedule must end after its start {start}")


def check_bounds(low_key: str, low: Any, high_key: str, high: Any) -> None:
    """Refuses schedules of bounds in [0, 1) of which the lower one is above the higher one at some step."""
    steps = []
    for key, value in ((low_key, low), (high_key, high)):
        check_schedule(key, value)
        start, first, last, end = _knots(value)
        for each in (first, last):
            number(key, each, 0)
            if each >= 1:
                raise BadConfig(f"{key}={value}: expected parts of all timesteps, below 1")
        steps += [start, end]
    for step in steps:  # in between both are straight
        below, above = annealed(low, step), annealed(high, step)
        if below > above + ROUNDING:
            raise BadConfig(f"{low_key}={low} is above {high_key}={high} at step {step}: {below:g} > {above:g}")


def _knots(value: Schedule) -> tuple[float | int, ...]:
    """Start, first value, last value, end."""
    if isinstance(value, int | float):
        return (0, value, value, 1)
    return tuple(value) if len(value) == 4 else (0, *value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
