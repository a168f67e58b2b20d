"""Leaving broken objects out of a training set: at most the fraction that may be dropped, counted and named.

Which ones stay is a function of the list and of what is broken alone, so that a resumed run reads the same items.
"""

import logging
from collections.abc import Mapping, Sequence

from core.errors import BadConfig, BadData

log = logging.getLogger(__name__)

MOST_NAMED = 50  # dropped objects in the log; the report has all


def usable(names: Sequence[str], broken: Mapping[str, str], max_dropped: float) -> list[int]:
    """Indices of the objects that are not broken, in order; the log says how many are dropped, and which.

    Args:
        names: all objects.
        broken: the reason for each broken one.
        max_dropped: the fraction that may be dropped. Raises BadData when more are broken.
    """
    kept = [index for index, name in enumerate(names) if name not in broken]
    first = next((f"{name}: {broken[name]}" for name in names if name in broken), "")
    dropped = len(names) - len(kept)
    allow_dropped(dropped, len(names), first, max_dropped)
    if dropped:
        left_out = ", ".join([name for name in names if name in broken][:MOST_NAMED])
        log.warning("left out: %s%s", left_out, f" and {dropped - MOST_NAMED} more" if dropped > MOST_NAMED else "")
    return kept


def allow_dropped(
    dropped: int,
    total: int,
    first: str,
    max_dropped: float,
    *,
    setting: str = "max_dropped",
    repair: str = "repair them",
) -> None:
    """Logs how many objects are dropped; BadData where that is more than a fraction `max_dropped`, or all of them.

    Args:
        first: the first of them, and why.
        setting: the setting that allows them, below `data.`.
        repair: what else can be done about them.
    """
    if not 0 <= max_dropped < 1:
        raise BadConfig(f"{setting}={max_dropped}: expected a fraction from 0 to below 1")
    if not dropped:
        return
    found = f"{dropped} of {total} training objects are broken, the first: {first}"
    if dropped > max_dropped * total or dropped == total:
        raise BadData(f"{found}; {repair}, or allow to drop them by data.{setting}={_enough(dropped, total)}")
    log.warning("%s; they are left out (data.%s=%s)", found, setting, max_dropped)


def _enough(dropped: int, total: int) -> float:
    """The smallest fraction with three decimals that lets so many be dropped."""
    return min(-(-1000 * dropped // total) / 1000, 0.999)
