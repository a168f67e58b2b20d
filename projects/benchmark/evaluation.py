"""Predictions against the truth: every object of a protocol is scored, or listed with the cause why it is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.config import instantiate
from core.errors import BadConfig, BadOutput, UserError
from core.files import atomic_file
from core.images import write_image
from core.metrics.summary import mean_and_interval, table
from core.progress import console, progress_bar
from core.provenance import provenance
from core.views import PROVENANCE
from projects.benchmark.page import items, overview, write_page
from projects.benchmark.protocol import Protocol, protocol_hash
from projects.benchmark.scoring import Outcome, Scorer, weights_of


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """The program behind `python -m projects.benchmark.evaluate`; returns what it wrote to scores.json.

    Raises a UserError, after everything is written, if an object of any method was not scored, or if the truth holds
    another number of objects than the protocol has.
    """
    protocol, gt, out = instantiate(cfg.protocol), Path(cfg.gt), Path(cfg.out)
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    chosen = settings["protocol"]
    methods = methods_of(cfg.pred)
    check_there(methods)
    refuse_another_tables_place(out, protocol_hash(chosen), overwrite=cfg.overwrite)
    names = protocol.names(gt)
    scorer = Scorer(protocol, gt, names)
    outcomes: dict[str, dict[str, Outcome]] = {method: {} for method in methods}
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(names) * len(methods))
        for method, pred in methods.items():
            for name in names:
                outcomes[method][name] = scorer.score(name, pred)
                bar.advance(task)
    wanted = protocol.num_objects or len(names)
    lacking, failed = uncounted(protocol, names, methods, gt), gaps(outcomes)
    result: dict[str, Any] = {
        "protocol": {"hash": protocol_hash(chosen), "settings": chosen},
        "weights": weights_of(protocol),
        "gt": str(gt),
        "predictions": {method: origin(protocol, method, pred, names) for method, pred in methods.items()},
        "summary": summary(protocol.columns, outcomes, wanted),
        "not_scored": lacking + failed,
        "objects": {method: {name: asdict(o) for name, o in found.items()} for method, found in outcomes.items()},
        "provenance": provenance(settings, seed=cfg.seed),
    }
    write(out, protocol, names, methods, gt, result)
    console.print(table(result["summary"]), markup=False)
    short_hash = result["protocol"]["hash"][:12]
    console.print(f"protocol {protocol.name}, hash {short_hash}; {out / 'report.html'}", markup=False)
    for line in result["not_scored"]:
        console.print(line, markup=False)
    if failed:
        count = f"{len(failed)} of {len(names) * len(methods)}"
        raise UserError(f"{count} objects were not scored (listed in {out / 'scores.json'}), the first: {failed[0]}")
    if lacking:
        raise UserError(lacking[0])
    return result


def write(
    out: Path,
    protocol: Protocol,
    names: Sequence[str],
    methods: Mapping[str, Path],
    gt: Path,
    result: Mapping[str, Any],
) -> None:
    """scores.json, table.md, report.html and overview.png; the scores last, so that they tell the rest is there."""
    shown = items(protocol, names, methods, gt, result)
    for old in ("scores.json", "overview.png"):
        (out / old).unlink(missing_ok=True)
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(table(result["summary"]), encoding="utf-8")
    write_page(out / "report.html", protocol, shown, result)
    if any(item.views for item in shown):
        write_image(out / "overview.png", overview(shown))
    with atomic_file(out / "scores.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_another_tables_place(out: Path, wanted_hash: str, *, overwrite: bool) -> None:
    """BadOutput where scores of another protocol lie: they would be lost without having been asked for."""
    path = out / "scores.json"
    if overwrite or not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["protocol"]
        found, name = there["hash"], there["settings"]["name"]
    except (OSError, ValueError, LookupError, TypeError):
        found, name = None, "unknown"
    if found != wanted_hash:
        raise BadOutput(
            f"{str(path)!r} holds scores of other settings (protocol {name}); choose another out= or set overwrite=true"
        )


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


def summary(
    columns: Sequence[str], outcomes: Mapping[str, Mapping[str, Outcome]], wanted: int
) -> dict[str, dict[str, Any]]:
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


def gaps(outcomes: Mapping[str, Mapping[str, Outcome]]) -> list[str]:
    """A line for each object of each method that was not scored, with its cause."""
    return [
        f"{method}, {name}: {outcome.status}: {outcome.cause}"
        for method, found in outcomes.items()
        for name, outcome in found.items()
        if outcome.status != "SCORED"
    ]


def uncounted(protocol: Protocol, names: Sequence[str], methods: Mapping[str, Path], gt: Path) -> list[str]:
    """A line where the truth holds another number of objects than the protocol has, with those known by name."""
    if protocol.num_objects is None or len(names) == protocol.num_objects:
        return []
    predicted = {name for pred in methods.values() for name in protocol.prediction.objects(pred)}
    lacking = sorted(predicted - set(names))
    known = f" (predicted, but not there: {', '.join(lacking)})" if lacking else ""
    return [
        f"the truth {str(gt)!r} has {len(names)} objects, protocol {protocol.name} has {protocol.num_objects}{known}; "
        f"give all of them, or set protocol.num_objects={len(names)} for a table of your own"
    ]
