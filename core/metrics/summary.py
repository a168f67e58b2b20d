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
        name: a column's name.
        digits: after the point; None shows four significant ones.
        lower_is_better: None where nobody said which is: then no arrow is drawn and nothing is the best.
        known_as: words that tell the metric in a column's name; None: the first word of `name`.
    """

    name: str
    digits: int | None = None
    lower_is_better: bool | None = False
    known_as: tuple[str, ...] | None = None

    @property
    def arrow(self) -> str:
        """Points to where the better values are."""
        return "" if self.lower_is_better is None else "↓" if self.lower_is_better else "↑"

    def text(self, value: Value) -> str:
        """A value as a table shows it."""
        if value is None:
            return "–"
        if isinstance(value, Mapping):
            interval = f" [{self.text(value['low'])}, {self.text(value['high'])}]" if "low" in value else ""
            return self.text(value["mean"]) + interval
        if isinstance(value, float):
            return f"{value:.4g}" if self.digits is None else f"{value:.{self.digits}f}"
        return str(value)

    def best(self, values: Iterable[Value]) -> list[bool]:
        """Which values are the best (several, when they are equal); none where there is nothing to compare with.

        A mean over some of the objects only is no match for a mean over all: other objects are harder or easier.
        """
        values = list(values)
        numbers = [_number(value) if _is_whole(value) else None for value in values]
        known = [number for number in numbers if number is not None]
        left_out = len(known) < sum(_number(value) is not None for value in values)
        if self.lower_is_better is None or len(values) < 2 or len(known) < (2 if left_out else 1):
            return [False] * len(values)
        best = (min if self.lower_is_better else max)(known)
        return [number == best for number in numbers]

    def is_told_by(self, column: str) -> bool:
        """Whether a column's name contains the metric's as a word."""
        keys = self.known_as or (_words(self.name).split()[0],)
        return any(re.search(rf"\b{key}(s|es)?\b", _words(column)) for key in keys)


PSNR = Metric("PSNR (dB)", 2)
SSIM = Metric("SSIM", 3)
FLIP = Metric("FLIP", 3, lower_is_better=True)
LPIPS = Metric("LPIPS", 3, lower_is_better=True)
CHAMFER = Metric("Chamfer", 4, lower_is_better=True, known_as=("chamfer", "cd"))
IOU = Metric("IoU", 3)
ERROR = Metric("error", lower_is_better=True, known_as=("error", "mae", "mse", "rmse"))
SECONDS = Metric("seconds", lower_is_better=True)
COMPONENTS = Metric("components", 1, lower_is_better=True)
F_SCORE = Metric("F-score", known_as=("f score",))
CLIP = Metric("CLIP score", known_as=("clip", "clip r", "clip score"))
NORMALS = Metric("normals", known_as=("normal",))
SHARE = Metric("watertight", known_as=("watertight", "coherence", "accuracy"))
COUNT = Metric("matches", known_as=("match", "point"))
RATE = Metric("recall", 3, known_as=("recall", "precision", "f1", "overlap", "agreement"))
JANUS = Metric("Janus excess", 3, lower_is_better=True)
METRICS = (
    PSNR, SSIM, FLIP, LPIPS, CHAMFER, IOU, ERROR, SECONDS, COMPONENTS, F_SCORE, CLIP, NORMALS, SHARE, COUNT, RATE, JANUS
)  # fmt: skip


def metric_of(column: str) -> Metric:
    """The metric that a column's name contains as a word; of an unknown one nobody knows which values are better."""
    return next((metric for metric in METRICS if metric.is_told_by(column)), Metric(column, lower_is_better=None))


def laid_out(rows: Rows, *, mark_best: bool = True) -> tuple[list[str], dict[str, list[tuple[str, bool]]]]:
    """A table's column titles, and per row each cell's text and whether it is the best of its column."""
    titles = []
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells: dict[str, list[tuple[str, bool]]] = {name: [] for name in rows}
    for column in columns:
        metric, values = metric_of(column), [row.get(column) for row in rows.values()]
        numbers = any(_number(value) is not None for value in values)
        titles.append(f"{column} {metric.arrow}".rstrip() if numbers else column)
        for name, value, best in zip(rows, values, metric.best(values), strict=True):
            cells[name].append((metric.text(value), best and mark_best))
    return titles, cells


def table(rows: Rows, *, mark_best: bool = True) -> str:
    """A table as Markdown, the best of each column in bold."""
    titles, cells = laid_out(rows, mark_best=mark_best)
    lines = ["| | " + " | ".join(titles) + " |", "|---|" + "---|" * len(titles)]
    for name, row in cells.items():
        lines.append(f"| {name} | " + " | ".join(f"**{text}**" if best else text for text, best in row) + " |")
    return "\n".join(lines) + "\n"


def mean_and_interval(
    values: Sequence[float], *, of: int | None = None, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean and 95% bootstrap interval over objects (Efron 1979, percentiles); one object alone has no interval.

    Args:
        of: how many objects there should have been. `Metric.best` compares no mean over fewer.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 0:
        raise BadData("a mean over no objects; give at least one")
    found: dict[str, float] = {"mean": float(array.mean()), "objects": len(values)}
    if len(array) > 1:
        means = np.random.default_rng(seed).choice(array, (draws, len(array))).mean(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        found |= {"low": float(low), "high": float(high)}
    return found | ({} if of is None else {"of": of})


def _number(value: Value) -> float | None:
    """What a value is compared by."""
    number = value["mean"] if isinstance(value, Mapping) else value
    return number if isinstance(number, (int, float)) and math.isfinite(number) else None


def _is_whole(value: Value) -> bool:
    """Whether a value is over all objects, as far as it says."""
    return not isinstance(value, Mapping) or value.get("of", 0) <= value.get("objects", math.inf)


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
