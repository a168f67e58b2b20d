"""The lines of a table: means over objects with their intervals, paired differences, and what is missing from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import natural_key
from core.metrics.summary import mean_and_interval
from projects.benchmark.protocol import Protocol
from projects.benchmark.scoring import Outcome

MOST_NAMED = 5
Outcomes = Mapping[str, Mapping[str, Outcome]]  # by method, then by object


def summary(columns: Sequence[str], outcomes: Outcomes, wanted: int) -> dict[str, dict[str, Any]]:
    """The table: per method how many objects were scored of how many, then the means over those."""
    scored = {method: [o for o in found.values() if o.status == "SCORED"] for method, found in outcomes.items()}
    equal = {method: sum(outcome.identical for outcome in found) for method, found in scored.items()}
    rows: dict[str, dict[str, Any]] = {}
    for method, found in scored.items():
        rows[method] = {"scored": f"{len(found)} of {wanted}"}
        for column in columns:
            values = [outcome.scores[column] for outcome in found]
            rows[method][column] = mean_and_interval(values, of=wanted) if values else None
        if any(equal.values()):  # their PSNR is a cap, not a measurement, and it lifts the mean
            rows[method]["identical to the truth"] = f"{equal[method]} views"
    return rows


def differences(columns: Sequence[str], outcomes: Outcomes, reference: str, wanted: int) -> dict[str, dict[str, Any]]:
    """Per method and column the mean of its scores minus the reference's, object by object.

    Objects differ far more from each other than methods do, so these intervals are narrower than the table's.
    """
    base = outcomes[reference]
    rows: dict[str, dict[str, Any]] = {}
    for method, found in outcomes.items():
        if method == reference:
            continue
        both = [(o, base[name]) for name, o in found.items() if o.status == base[name].status == "SCORED"]
        rows[method] = {"objects": f"{len(both)} of {wanted}"}
        for column in columns:
            apart = [mine.scores[column] - theirs.scores[column] for mine, theirs in both]
            rows[method][column] = mean_and_interval(apart, of=wanted) if apart else None
    return rows


def gaps(outcomes: Outcomes) -> list[str]:
    """A line for each object of each method that was not scored, with its cause."""
    return [
        f"{method}, {name}: {outcome.status}: {outcome.cause}"
        for method, found in outcomes.items()
        for name, outcome in found.items()
        if outcome.status != "SCORED"
    ]


def uncounted(protocol: Protocol, names: Sequence[str], methods: Mapping[str, Sequence[Path]], gt: Path) -> list[str]:
    """A line where the truth holds another number of objects than the protocol has, or fewer than were predicted."""
    chosen = protocol.objects is not None or protocol.input_views is not None
    predicted = {name for preds in methods.values() for pred in preds for name in protocol.prediction.objects(pred)}
    lacking = sorted(predicted - set(names), key=natural_key)
    more = f" and {len(lacking) - MOST_NAMED} more" if len(lacking) > MOST_NAMED else ""
    named = f"{', '.join(lacking[:MOST_NAMED])}{more}"
    if protocol.num_objects is not None and len(names) != protocol.num_objects:
        known = f" (predicted, but not there: {named})" if lacking and not chosen else ""
        wanted = f"protocol {protocol.name} has {protocol.num_objects}{known}"
        return [
            f"the truth {str(gt)!r} has {len(names)} objects, {wanted}; give all of them, or set "
            f"protocol.num_objects={len(names)} for a table of your own"
        ]
    if protocol.num_objects is None and lacking and not chosen:
        return [
            f"the truth {str(gt)!r} lacks {len(lacking)} objects that were predicted: {named}; add them, or set "
            f"protocol.num_objects={len(names)}"
        ]
    return []
