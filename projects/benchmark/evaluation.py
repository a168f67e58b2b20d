"""Predictions against the truth: every object of a protocol is scored, or listed with the cause why it is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.config import instantiate, one_of
from core.errors import BadConfig, BadOutput, UserError
from core.files import atomic_file
from core.images import write_image
from core.metrics.summary import table
from core.progress import console, progress_bar
from core.provenance import provenance
from core.views import PROVENANCE
from projects.benchmark.page import items, overview, write_page
from projects.benchmark.protocol import Protocol, protocol_hash
from projects.benchmark.rows import differences, gaps, summary, uncounted
from projects.benchmark.scoring import Outcome, Scorer, mean_of_samples, weights_of
from projects.benchmark.truth import truth_record


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
    if cfg.reference is not None:
        one_of("reference", str(cfg.reference), list(methods))
    names = protocol.names(gt)
    truth = truth_record(protocol, gt, names)
    refuse_another_tables_place(out, protocol_hash(chosen), truth["sha256"], overwrite=cfg.overwrite)
    scorer = Scorer(protocol, gt, names)
    outcomes: dict[str, dict[str, Outcome]] = {method: {} for method in methods}
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(names) * sum(map(len, methods.values())))
        for method, preds in methods.items():
            for name in names:
                samples = [scorer.score(name, pred) for pred in preds]
                outcomes[method][name] = mean_of_samples(samples)
                bar.advance(task, len(preds))
    wanted = protocol.num_objects or len(names)
    lacking, failed = uncounted(protocol, names, methods, gt), gaps(outcomes)
    result: dict[str, Any] = {
        "protocol": {"hash": protocol_hash(chosen), "settings": chosen},
        "weights": weights_of(protocol),
        "truth": truth,
        "predictions": {method: origin(protocol, method, preds, names) for method, preds in methods.items()},
        "summary": summary(protocol.columns, outcomes, wanted),
        "reference": cfg.reference,
        "differences": differences(protocol.columns, outcomes, cfg.reference, wanted) if cfg.reference else {},
        "not_scored": lacking + failed,
        "objects": {method: {name: asdict(o) for name, o in found.items()} for method, found in outcomes.items()},
        "provenance": provenance(settings, seed=cfg.seed),
    }
    write(out, protocol, names, methods, gt, result)
    console.print(tables(result), markup=False)
    short_hash = result["protocol"]["hash"][:12]
    console.print(f"protocol {protocol.name}, hash {short_hash}; truth {truth['sha256'][:12]}", markup=False)
    console.print(str(out / "report.html"), markup=False)
    for line in failed:
        console.print(line, markup=False)
    if failed:
        for line in lacking:
            console.print(line, markup=False)
        count = f"{len(failed)} of {len(names) * len(methods)}"
        raise UserError(f"{count} objects were not scored (listed in {out / 'scores.json'}), the first: {failed[0]}")
    if lacking:
        raise UserError(lacking[0])
    return result


def write(
    out: Path,
    protocol: Protocol,
    names: Sequence[str],
    methods: Mapping[str, Sequence[Path]],
    gt: Path,
    result: Mapping[str, Any],
) -> None:
    """scores.json, table.md, report.html and overview.png; the scores last, so that they tell the rest is there."""
    shown = items(protocol, names, {method: preds[0] for method, preds in methods.items()}, gt, result)
    for old in ("scores.json", "overview.png"):
        (out / old).unlink(missing_ok=True)
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(tables(result), encoding="utf-8")
    write_page(out / "report.html", protocol, shown, result)
    if any(item.views for item in shown):
        write_image(out / "overview.png", overview(shown))
    with atomic_file(out / "scores.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_another_tables_place(out: Path, settings: str, truth: str, *, overwrite: bool) -> None:
    """BadOutput where scores by another protocol or of another truth lie: they would be lost without being asked for.

    Args:
        settings: the protocol's hash.
        truth: the truth's.
    """
    path = out / "scores.json"
    if overwrite or not path.is_file():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        found = (there["protocol"]["hash"], there["truth"]["sha256"])
        what = f"protocol {there['protocol']['settings']['name']}, truth {there['truth']['folder']}"
    except (OSError, ValueError, LookupError, TypeError):
        found, what = None, "unknown"
    if found != (settings, truth):
        raise BadOutput(
            f"{str(path)!r} holds scores by other settings or of another truth ({what}); choose another out= or set "
            "overwrite=true"
        )


def tables(result: Mapping[str, Any]) -> str:
    """The table as Markdown, and that of the differences from the reference, if one was named."""
    text = table(result["summary"])
    if result["differences"]:
        text += f"\nMinus {result['reference']}, object by object:\n\n{table(result['differences'], mark_best=False)}"
    return text


def origin(protocol: Protocol, method: str, preds: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Where a method's predictions come from: what the first one says of its weights, command and cost."""
    found: dict[str, Any] = {"method": method, "folders": [str(pred) for pred in preds]}
    for name in names:
        path = protocol.prediction.path(preds[0], "views", name) / PROVENANCE
        if path.is_file():
            try:
                record = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                return found | {"unknown": f"{str(path)!r} is unreadable"}
            return found | {key: record.get(key) for key in ("command", "weights", "cpu_seconds", "code")}
    return found


def methods_of(pred: Any) -> dict[str, list[Path]]:
    """Folders of methods by name: `pred=DIR` is called as its folder, `pred={Name: DIR, ...}` as it says.

    A method with several folders, `{Name: [DIR, DIR]}`, was sampled several times: an object's score is the mean over
    its samples. BadConfig for none.
    """
    given = OmegaConf.to_container(pred) if OmegaConf.is_config(pred) else pred
    if isinstance(given, list):
        raise BadConfig(f"pred={given}: name the method that was sampled several times: pred={{Name: [DIR, DIR]}}")
    found = given if isinstance(given, Mapping) else {Path(str(given)).resolve().name: given}
    methods = {
        str(name): [Path(str(folder)).expanduser() for folder in (each if isinstance(each, list) else [each])]
        for name, each in found.items()
    }
    if not methods or not all(methods.values()):
        raise BadConfig(f"pred={given}: name at least one method's folder")
    for name, folders in methods.items():
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise BadConfig(f"pred: {name} names a folder twice; its samples must differ")
    return methods


def check_there(methods: Mapping[str, Sequence[Path]]) -> None:
    """BadConfig for a method whose folder is not there."""
    for name, folders in methods.items():
        for folder in folders:
            if not folder.is_dir():
                raise BadConfig(f"pred: no folder {str(folder)!r} (of {name}); give the folder that holds its objects")
