"""One object of one method against the truth: SCORED, FAILED with the cause, or MISSING; never a stand-in number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from core.errors import BadData, BadOutput, MissingWeights, UserError
from core.mesh.export import read_mesh
from core.metrics.images import identical
from core.views import TRANSFORMS, read_views
from projects.benchmark.blame import blamed_on
from projects.benchmark.layout import azimuth
from projects.benchmark.pairing import pair, single, whole_truth
from projects.benchmark.pictures import Pictures
from projects.benchmark.placing import moved_onto, posed
from projects.benchmark.protocol import VIEW_KINDS, Protocol
from projects.benchmark.solids import PREDICTED, TRUE, Shape


@dataclass(frozen=True)
class Outcome:
    """What came of one object.

    Args:
        scores: per column.
        per_view: per column, where a measure is one of views.
        notes: per column, where there is something to say about its score.
        identical: how many views equal the truth bit for bit: their PSNR is a cap, not a measurement.
        samples: the scores of each sample, where there are several.
    """

    status: Literal["SCORED", "FAILED", "MISSING"]
    cause: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    per_view: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    identical: int = 0
    samples: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Scorer:
    """A protocol, the truth, and the objects that it asks for."""

    protocol: Protocol
    gt: Path
    names: Sequence[str]

    @cached_property
    def captions(self) -> list[str]:
        """Of all objects, in their order; BadData where one has none."""
        return [caption(self.protocol, name, self.gt) for name in self.names]

    def score(self, name: str, pred: Path) -> Outcome:
        """One object of one method; a fault in it is its outcome, never the end of the others."""
        for kind in self.protocol.kinds():
            path = self.protocol.prediction.path(pred, kind, name)
            if not path.exists():
                return Outcome("MISSING", f"no {str(path)!r}")
        try:
            per_view, equal = self._view_scores(name, pred)
            scores = {column: sum(values) / len(values) for column, values in per_view.items() if values}
            scores |= self._shape_scores(name, pred)
        except (BadOutput, MissingWeights):
            raise
        except UserError as error:
            return Outcome("FAILED", str(error))
        lacking = [column for column in self.protocol.columns if not math.isfinite(scores.get(column, math.nan))]
        if lacking:
            found = ", ".join(f"{column} is {scores.get(column, 'without a value')}" for column in lacking)
            return Outcome("FAILED", f"{found}: no finite number", per_view=per_view)
        notes = {column: note for column, m in self.protocol.alone.items() if (note := getattr(m, "note", ""))}
        return Outcome("SCORED", "", scores, per_view, notes, equal)

    def _view_scores(self, name: str, pred: Path) -> tuple[dict[str, list[float]], int]:
        """Per column, each view's score (one, where a measure takes all together); and how many equal the truth."""
        protocol = self.protocol
        found: dict[str, list[float]] = {}
        made: Pictures | None = None
        equal = 0
        if protocol.compares_views:
            made, true = pair(protocol, name, pred, self.gt)
            equal = int(identical(made.images, true.images).sum())
            found |= {column: numbers(measure(made.images, true.images)) for column, measure in protocol.images.items()}
            found |= {column: numbers(measure(made.masks, true.masks)) for column, measure in protocol.masks.items()}
        if protocol.sets or protocol.alone:
            alone = single(protocol, name, pred, self.gt)
            found |= {column: numbers(measure(alone)) for column, measure in protocol.alone.items()}
        if protocol.sets:
            truth = whole_truth(protocol, name, self.gt)
            found |= {column: numbers(measure(alone, truth)) for column, measure in protocol.sets.items()}
        if protocol.texts:
            shown = made if made is not None else single(protocol, name, pred, self.gt)
            place = list(self.names).index(name)
            for column, measure in protocol.texts.items():
                found[column] = numbers(measure(shown.images, place, self.captions))
        return found, equal

    def _shape_scores(self, name: str, pred: Path) -> dict[str, float]:
        """Per column, the mesh's score."""
        if not self.protocol.shapes:
            return {}
        made, true = shapes(self.protocol, name, pred, self.gt)
        return {column: float(measure(made, true)) for column, measure in self.protocol.shapes.items()}


def mean_of_samples(samples: Sequence[Outcome]) -> Outcome:
    """One outcome of an object that was predicted several times; one sample that failed fails it."""
    if len(samples) == 1:
        return samples[0]
    for number, sample in enumerate(samples):
        if sample.status != "SCORED":
            return replace(sample, cause=f"sample {number}: {sample.cause}")
    columns = list(samples[0].scores)
    scores = {column: sum(sample.scores[column] for sample in samples) / len(samples) for column in columns}
    per_view = {column: [v for sample in samples for v in sample.per_view[column]] for column in samples[0].per_view}
    notes = {column: "; ".join(dict.fromkeys(s.notes[column] for s in samples)) for column in samples[0].notes}
    identical_views = sum(sample.identical for sample in samples)
    return Outcome("SCORED", "", scores, per_view, notes, identical_views, [sample.scores for sample in samples])


def numbers(scores: Any) -> list[float]:
    """A measure's scores as a list: one number, or one for each view."""
    values = scores.detach().cpu().numpy() if isinstance(scores, Tensor) else scores
    return np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel().tolist()


def shapes(protocol: Protocol, name: str, pred: Path, gt: Path) -> tuple[Shape, Shape]:
    """An object's predicted and true meshes, placed as the protocol says."""
    found = []
    for layout, root in ((protocol.prediction, pred), (protocol.truth, gt)):
        depths = layout.path(root, "depths", name) if layout.depths is not None else None
        with blamed_on(PREDICTED if root is pred else TRUE):
            mesh = read_mesh(layout.path(root, "mesh", name))
        found.append(Shape(name, mesh, depths))
    made, true = found
    turn = 0.0
    if protocol.turn == "input_azimuth":
        view = protocol.input_of(name, gt)
        assert view is not None
        turn = azimuth(protocol.truth.path(gt, "angles", name), view)
    with blamed_on(PREDICTED):
        made = posed(made, turn_rad=turn, box=protocol.box)
    with blamed_on(TRUE):
        true = posed(true, turn_rad=0.0, box=protocol.box)
    return (made if protocol.icp_within is None else moved_onto(made, true, within=protocol.icp_within)), true


def caption(protocol: Protocol, name: str, gt: Path) -> str:
    """What the truth calls an object; BadData where it says nothing."""
    if protocol.truth.captions is not None:
        path = protocol.truth.path(gt, "captions", name)
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        where = str(path)
    else:
        folder = protocol.truth.path(gt, "views", name)
        where = str(folder / TRANSFORMS)
        text = (read_views(folder).caption or "") if (folder / TRANSFORMS).is_file() else ""
    if not text:
        raise BadData(f"{where!r}: no caption of {name!r}; measures of text need one for every object")
    return text


def weights_of(protocol: Protocol) -> Mapping[str, Any]:
    """What networks the measures used: per column, the file and its sha256."""
    kinds = (getattr(protocol, kind) for kind in (*VIEW_KINDS, "shapes"))
    measures = {column: measure for kind in kinds for column, measure in kind.items()}
    return {column: measure.weights() for column, measure in measures.items() if hasattr(measure, "weights")}
