"""Leaving broken objects out of a training set, by the report of `data_tools.validate`.

Which ones stay is a function of the list and the report alone, so that a resumed run reads the same items.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import BadConfig, BadData

log = logging.getLogger(__name__)

MOST_NAMED = 50  # dropped objects in the log; the report has all


def names_hash(names: Iterable[str]) -> str:
    """sha256 of a set of names, in any order."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogatepass")).hexdigest()


def broken_in_report(path: str | Path, names: Sequence[str]) -> dict[str, str]:
    """The broken objects of a validation report and the first reason of each; BadData if it is about another list."""
    path = Path(path)
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        about, broken = report["names_sha256"], {name: reasons[0] for name, reasons in report["broken"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadData(f"no validation report in {str(path)!r} ({error}); make one with data_tools.validate") from error
    if about != names_hash(names):
        raise BadData(f"the report {str(path)!r} is about another list of objects; run data_tools.validate again")
    return broken


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


def allow_dropped(dropped: int, total: int, first: str, max_dropped: float) -> None:
    """Logs how many objects are dropped; BadData where that is more than a fraction `max_dropped`, or all of them.

    Args:
        first: the first of them, and why.
    """
    if not 0 <= max_dropped < 1:
        raise BadConfig(f"max_dropped={max_dropped}: expected a fraction from 0 to below 1")
    if not dropped:
        return
    found = f"{dropped} of {total} training objects are broken, the first: {first}"
    if dropped > max_dropped * total or dropped == total:
        raise BadData(f"{found}; repair them, or allow to drop them by data.max_dropped={_enough(dropped, total)}")
    log.warning("%s; they are left out (data.max_dropped=%s)", found, max_dropped)


def _enough(dropped: int, total: int) -> float:
    """The smallest fraction with three decimals that lets so many be dropped."""
    return min(-(-1000 * dropped // total) / 1000, 0.999)
