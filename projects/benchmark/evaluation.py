"""Predictions against the truth: every object of a protocol is scored, or listed with the cause why it is not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.config import instantiate
from core.errors import BadConfig, BadOutput, BadViewSet, UserError
from core.files import atomic_file, natural_key
from core.images import contact_sheet, read_image, write_image
from core.mesh.export import read_mesh
from core.metrics.summary import mean_and_interval, table
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.report import ReportItem, write_report
from core.views import PROVENANCE, TRANSFORMS, read_views
from projects.benchmark.protocol import Protocol
from projects.benchmark.solids import Shape

MOST_SHOWN = 60  # objects on the page; more would make it too heavy to open


@dataclass(frozen=True)
class Outcome:
    """What came of one object: its scores per column, and per view where the measure is one of images."""

    status: Literal["SCORED", "FAILED", "MISSING"]
    cause: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    per_view: dict[str, list[float]] = field(default_factory=dict)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """The program behind `python -m projects.benchmark.evaluate`; returns what it wrote to scores.json.

    Raises a UserError, after everything is written, if an object of any method was not scored.
    """
    protocol, gt, out = instantiate(cfg.protocol), Path(cfg.gt), Path(cfg.out)
    methods = methods_of(cfg.pred)
    names = protocol.names(gt)
    outcomes: dict[str, dict[str, Outcome]] = {method: {} for method in methods}
    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(names) * len(methods))
        for method, pred in methods.items():
            for name in names:
                outcomes[method][name] = score(protocol, name, pred, gt)
                bar.advance(task)
    rows = {method: row(protocol, per_object) for method, per_object in outcomes.items()}
    chosen = OmegaConf.to_container(cfg.protocol, resolve=True)
    assert isinstance(chosen, dict)
    result = {
        "protocol": {"hash": protocol_hash(chosen), "settings": chosen},
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
            record = json.loads(path.read_text(encoding="utf-8"))
            return {"method": method} | {key: record.get(key) for key in ("command", "weights", "cpu_seconds", "code")}
    return {"method": method}


def methods_of(pred: Any) -> dict[str, Path]:
    """Methods by name: `pred=DIR` is called as its folder, `pred={Name: DIR, ...}` as it says. BadConfig if none is."""
    given = OmegaConf.to_container(pred) if OmegaConf.is_config(pred) else pred
    found = given if isinstance(given, Mapping) else {Path(str(given)).resolve().name: given}
    methods = {str(name): Path(str(folder)).expanduser() for name, folder in found.items()}
    for name, folder in methods.items():
        if not folder.is_dir():
            raise BadConfig(f"pred: no folder {str(folder)!r} (of {name}); give the folder that holds its objects")
    if not methods:
        raise BadConfig("pred={}: name at least one method's folder")
    return methods


def protocol_hash(settings: Mapping[str, Any]) -> str:
    """Of all settings but the words about them."""
    return config_hash({key: value for key, value in settings.items() if key not in ("what", "name")})


def score(protocol: Protocol, name: str, pred: Path, gt: Path) -> Outcome:
    """One object of one method; a fault in it is its outcome, never the end of the others."""
    kinds = (["views"] if protocol.images else []) + (["mesh"] if protocol.shapes else [])
    for kind in kinds:
        path = protocol.prediction.path(pred, kind, name)
        if not path.exists():
            return Outcome("MISSING", f"no {str(path)!r}")
    try:
        per_view = image_scores(protocol, name, pred, gt) if protocol.images else {}
        scores = {column: sum(values) / len(values) for column, values in per_view.items()}
        return Outcome("SCORED", "", scores | (shape_scores(protocol, name, pred, gt)), per_view)
    except BadOutput:
        raise
    except UserError as error:
        return Outcome("FAILED", str(error))


def image_scores(protocol: Protocol, name: str, pred: Path, gt: Path) -> dict[str, list[float]]:
    """Per column, each view's score."""
    made = views_of(protocol.prediction.path(pred, "views", name), protocol)
    true = views_of(protocol.truth.path(gt, "views", name), protocol)
    if made.shape != true.shape:
        raise BadViewSet(f"{len(made)} views of {tuple(made.shape[2:])} pixels, the truth has {len(true)} of "
                         f"{tuple(true.shape[2:])}; nothing is resized or left out")  # fmt: skip
    return {column: measure(made, true).tolist() for column, measure in protocol.images.items()}


def shape_scores(protocol: Protocol, name: str, pred: Path, gt: Path) -> dict[str, float]:
    """Per column, the mesh's score."""
    if not protocol.shapes:
        return {}
    shapes = []
    for layout, root in ((protocol.prediction, pred), (protocol.truth, gt)):
        depths = layout.path(root, "depths", name) if layout.depths is not None else None
        shapes.append(Shape(name, read_mesh(layout.path(root, "mesh", name)), depths))
    return {column: float(measure(*shapes)) for column, measure in protocol.shapes.items()}


def views_of(folder: Path, protocol: Protocol) -> Float[Tensor, "v 3 h w"]:
    """The views that the protocol counts, on its background, in [0, 1]."""
    if (folder / TRANSFORMS).is_file():
        images = read_views(folder).images
    else:
        files = sorted((path for path in folder.glob("*.png") if path.stem.isdigit()), key=natural_key)
        if not files:
            raise BadViewSet(f"{str(folder)!r} holds neither {TRANSFORMS} nor pictures 000.png, 001.png, ...")
        pictures = [read_image(path) for path in files]
        if len({picture.shape for picture in pictures}) > 1:
            raise BadViewSet(f"{str(folder)!r}: pictures of different sizes")
        images = torch.stack(pictures)
    if protocol.size is not None and images.shape[-2:] != (protocol.size, protocol.size):
        raise BadViewSet(
            f"{str(folder)!r}: {images.shape[-1]} x {images.shape[-2]} pixels, the protocol wants {protocol.size} x "
            f"{protocol.size}"
        )
    if protocol.views is not None:
        if max(protocol.views) >= len(images):
            raise BadViewSet(f"{str(folder)!r}: {len(images)} views, the protocol wants view {max(protocol.views)}")
        images = images[list(protocol.views)]
    # Quirk: SSIM in single precision feels the last bits of even areas (1e-4 on a real object), so an opaque picture
    # must come through unchanged; `core.images.composite` has the training's order of operations, which does not.
    rgb, alpha = images[:, :3], images[:, 3:]
    return rgb * alpha + protocol.background * (1 - alpha)


def row(protocol: Protocol, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """A method's line in the table: how many objects were scored of how many, then the means over those."""
    scored = [outcome for outcome in outcomes.values() if outcome.status == "SCORED"]
    wanted = protocol.num_objects or len(outcomes)
    line: dict[str, Any] = {"scored": f"{len(scored)} of {wanted}"}
    for column in (*protocol.images, *protocol.shapes):
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
    """The first method's scored objects with the truth, as far as images are measured."""
    first, pred = next(iter(methods.items()))
    items = []
    for name in names[:MOST_SHOWN] if protocol.images else []:
        if result["objects"][first][name]["status"] != "SCORED":
            continue
        scores = result["objects"][first][name]["scores"]
        film = protocol.prediction.path(pred, "views", name) / "turntable.mp4"
        items.append(
            ReportItem(
                name=name,
                views=views_of(protocol.prediction.path(pred, "views", name), protocol),
                truth=views_of(protocol.truth.path(gt, "views", name), protocol),
                video=film if film.is_file() else None,
                caption=", ".join(f"{column} {value:.4g}" for column, value in scores.items()),
            )
        )
    return items


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
