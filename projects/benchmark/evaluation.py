"""Predictions against the truth: every object of a protocol is scored, or listed with the cause why it is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.config import instantiate
from core.errors import BadConfig, UserError
from core.files import atomic_file
from core.images import contact_sheet, write_image
from core.metrics.summary import mean_and_interval, table
from core.progress import console, progress_bar
from core.provenance import provenance
from core.report import ReportItem, write_report
from core.views import PROVENANCE
from projects.benchmark.pairing import pair
from projects.benchmark.pictures import read
from projects.benchmark.protocol import Protocol, protocol_hash
from projects.benchmark.scoring import Outcome, Scorer, weights_of

MOST_SHOWN = 60  # objects on the page; more would make it too heavy to open


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """The program behind `python -m projects.benchmark.evaluate`; returns what it wrote to scores.json.

    Raises a UserError, after everything is written, if an object of any method was not scored.
    """
    protocol, gt, out = instantiate(cfg.protocol), Path(cfg.gt), Path(cfg.out)
    methods = methods_of(cfg.pred)
    check_there(methods)
    names = protocol.names(gt)
    scorer = Scorer(protocol, gt, names)
    outcomes: dict[str, dict[str, Outcome]] = {method: {} for method in methods}
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(names) * len(methods))
        for method, pred in methods.items():
            for name in names:
                outcomes[method][name] = scorer.score(name, pred)
                bar.advance(task)
    rows = {method: row(protocol, per_object) for method, per_object in outcomes.items()}
    chosen = OmegaConf.to_container(cfg.protocol, resolve=True)
    assert isinstance(chosen, dict)
    result = {
        "protocol": {"hash": protocol_hash(chosen), "settings": chosen},
        "weights": weights_of(protocol),
        "gt": str(gt),
        "predictions": {method: origin(protocol, method, pred, names) for method, pred in methods.items()},
        "summary": rows,
        "objects": {method: {name: asdict(o) for name, o in found.items()} for method, found in outcomes.items()},
        "provenance": provenance(OmegaConf.to_container(cfg, resolve=True), seed=cfg.seed),
    }
    with atomic_file(out / "scores.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(table(rows), encoding="utf-8")
    shown = beside_truth(protocol, names, methods, gt, result)
    write_page(out / "report.html", protocol, shown, result)
    if shown:
        write_image(out / "overview.png", overview(shown))
    console.print(table(rows), markup=False)
    short_hash = result["protocol"]["hash"][:12]
    console.print(f"protocol {protocol.name}, hash {short_hash}; {out / 'report.html'}", markup=False)
    refuse_gaps(outcomes, out)
    return result


def origin(protocol: Protocol, method: str, pred: Path, names: Sequence[str]) -> dict[str, Any]:
    """Where a method's predictions come from: what the first one says of its weights, command and cost."""
    for name in names:
        path = protocol.prediction.path(pred, "views", name) / PROVENANCE
        if path.is_file():
            try:
                record = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                return {"method": method, "unknown": f"{str(path)!r} is unreadable"}
            return {"method": method} | {key: record.get(key) for key in ("command", "weights", "cpu_seconds", "code")}
    return {"method": method}


def methods_of(pred: Any) -> dict[str, Path]:
    """Methods by name: `pred=DIR` is called as its folder, `pred={Name: DIR, ...}` as it says. BadConfig for none."""
    given = OmegaConf.to_container(pred) if OmegaConf.is_config(pred) else pred
    found = given if isinstance(given, Mapping) else {Path(str(given)).resolve().name: given}
    methods = {str(name): Path(str(folder)).expanduser() for name, folder in found.items()}
    if not methods:
        raise BadConfig("pred={}: name at least one method's folder")
    return methods


def check_there(methods: Mapping[str, Path]) -> None:
    """BadConfig for a method whose folder is not there."""
    for name, folder in methods.items():
        if not folder.is_dir():
            raise BadConfig(f"pred: no folder {str(folder)!r} (of {name}); give the folder that holds its objects")


def row(protocol: Protocol, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """A method's line in the table: how many objects were scored of how many, then the means over those."""
    scored = [outcome for outcome in outcomes.values() if outcome.status == "SCORED"]
    wanted = protocol.num_objects or len(outcomes)
    line: dict[str, Any] = {"scored": f"{len(scored)} of {wanted}"}
    for column in protocol.columns:
        line[column] = mean_and_interval([outcome.scores[column] for outcome in scored]) if scored else None
    return line


def refuse_gaps(outcomes: Mapping[str, Mapping[str, Outcome]], out: Path) -> None:
    """One line about all objects that were not scored, with the first one's cause."""
    gaps = [(m, n, o) for m, found in outcomes.items() for n, o in found.items() if o.status != "SCORED"]
    for method, name, outcome in gaps:
        console.print(f"{method}, {name}: {outcome.status}: {outcome.cause}", markup=False)
    if gaps:
        _, name, first = gaps[0]
        total = sum(len(found) for found in outcomes.values())
        raise UserError(
            f"{len(gaps)} of {total} objects were not scored (listed in {out / 'scores.json'}); the first: {name}: "
            f"{first.status}: {first.cause}"
        )


def beside_truth(
    protocol: Protocol, names: Sequence[str], methods: Mapping[str, Path], gt: Path, result: Mapping[str, Any]
) -> list[ReportItem]:
    """The first method's scored objects with the truth and the view that was given, as far as views are compared."""
    first, pred = next(iter(methods.items()))
    items = []
    for name in names[:MOST_SHOWN] if protocol.compares_views else []:
        if result["objects"][first][name]["status"] != "SCORED":
            continue
        scores = result["objects"][first][name]["scores"]
        folder = protocol.prediction.path(pred, "views", name)
        made, true = pair(protocol, name, pred, gt)
        items.append(
            ReportItem(
                name=name,
                views=made.images,
                truth=true.images,
                source=given_view(protocol, name, gt),
                video=folder / "turntable.mp4" if (folder / "turntable.mp4").is_file() else None,
                caption=", ".join(f"{column} {value:.4g}" for column, value in scores.items()),
            )
        )
    return items


def given_view(protocol: Protocol, name: str, gt: Path) -> Float[Tensor, "3 h w"] | None:
    """The view that a method was given of an object, where the protocol names one of the true views."""
    number = protocol.input_of(name, gt)
    if number is None:
        return None
    true = read(protocol.truth, protocol.truth.path(gt, "views", name), protocol, number)
    return true.images[list(true.numbers).index(number)] if number in true.numbers else None


def overview(items: Sequence[ReportItem], columns: int = 8) -> Float[Tensor, "3 h w"]:
    """Per object a row of true views above one of predicted views, evenly chosen."""
    rows = []
    for item in items:
        assert item.truth is not None
        chosen = torch.linspace(0, len(item.views), columns + 1)[:columns].long()
        rows += [item.truth[chosen], item.views[chosen]]
    return contact_sheet(torch.cat(rows), columns)


def write_page(path: Path, protocol: Protocol, items: Sequence[ReportItem], result: Mapping[str, Any]) -> None:
    """The table, what was not scored and why, and the objects in `items`."""
    methods = list(result["objects"])
    gaps = [
        f"{method}, {name}: {outcome['status']} ({outcome['cause']})"
        for method, found in result["objects"].items()
        for name, outcome in found.items()
        if outcome["status"] != "SCORED"
    ]
    missing = f" Not scored: {'; '.join(gaps)}." if gaps else ""
    write_report(
        path,
        title=f"{', '.join(methods)}: {protocol.name}",
        summary=f"{protocol.what} Below: {methods[0]} beside the truth.{missing}",
        items=items,
        metrics=result["summary"],
        provenance={"protocol": result["protocol"], **result["provenance"]},
    )
