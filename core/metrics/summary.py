"""What a metric's numbers mean in a table: which is better, how many digits count; means with their uncertainty.

A table is `row name -> column name -> value`. A column is named by its metric, with or without more words ("FLIP",
"Chamfer of the mesh"); a value is a number, a text ("no mesh"), None, or a mean with its interval.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.errors import BadData

Value = float | str | Mapping[str, float] | None
Rows = Mapping[str, Mapping[str, Value]]


@dataclass(frozen=True)
class Metric:
    """A kind of number.

    Args:
        name: a column's name; its first word identifies the metric.
        digits: after the point; None shows four significant ones.
    """

    name: str
    digits: int | None = None
    lower_is_better: bool = False

    @property
    def arrow(self) -> str:
        """Points to where the better values are."""
        return "↓" if self.lower_is_better else "↑"

    def text(self, value: Value) -> str:
        """A value as a table shows it."""
        if value is None:
            return "–"
        if isinstance(value, Mapping):
            return f"{self.text(value['mean'])} [{self.text(value['low'])}, {self.text(value['high'])}]"
        if isinstance(value, float):
            return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"
        return str(value)

    def best(self, values: Iterable[Value]) -> list[bool]:
        """Which values are the best (several, when they are equal); none where there is nothing to compare with."""
        numbers = [_number(value) for value in values]
        known = [number for number in numbers if number is not None]
        best = (min if self.lower_is_better else max)(known) if known and len(numbers) > 1 else None
        return [number is not None and number == best for number in numbers]


PSNR = Metric("PSNR (dB)", 2)
SSIM = Metric("SSIM", 3)
FLIP = Metric("FLIP", 3, lower_is_better=True)
LPIPS = Metric("LPIPS", 3, lower_is_better=True)
CHAMFER = Metric("Chamfer", 4, lower_is_better=True)
IOU = Metric("IoU", 3)
ERROR = Metric("error", lower_is_better=True)
SECONDS = Metric("seconds", lower_is_better=True)
COMPONENTS = Metric("components", 1, lower_is_better=True)
METRICS = (PSNR, SSIM, FLIP, LPIPS, CHAMFER, IOU, ERROR, SECONDS, COMPONENTS)


def metric_of(column: str) -> Metric:
    """The metric that a column's name contains as a word; of an unknown one, more is better."""
    words = _words(column)
    for metric in METRICS:
        key = _words(metric.name)[0]
        if any(word in (key, f"{key}s") for word in words):
            return metric
    return Metric(column)


def laid_out(rows: Rows) -> tuple[list[str], dict[str, list[tuple[str, bool]]]]:
    """A table's column titles, and per row each cell's text and whether it is the best of its column."""
    titles = []
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells: dict[str, list[tuple[str, bool]]] = {name: [] for name in rows}
    for column in columns:
        metric, values = metric_of(column), [row.get(column) for row in rows.values()]
        titles.append(f"{column} {metric.arrow}" if any(_number(value) is not None for value in values) else column)
        for name, value, best in zip(rows, values, metric.best(values), strict=True):
            cells[name].append((metric.text(value), best))
    return titles, cells


def table(rows: Rows) -> str:
    """A table as Markdown, the best of each column in bold."""
    titles, cells = laid_out(rows)
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for name, row in cells.items():
        lines.append(f"| {name} | " + " | ".join(f"**{text}**" if best else text for text, best in row) + " |")
    return "\n".join(lines) + "\n"


def mean_and_interval(values: Sequence[float], *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean and 95% bootstrap interval over objects (Efron 1979, percentiles)."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0:
        raise BadData("a mean over no objects; give at least one")
    means = np.random.default_rng(seed).choice(array, (draws, len(array))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(array.mean()), "low": float(low), "high": float(high), "objects": len(values)}


def _number(value: Value) -> float | None:
    """What a value is compared by."""
    number = value["mean"] if isinstance(value, Mapping) else value
    return number if isinstance(number, (int, float)) and math.isfinite(number) else None


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())
