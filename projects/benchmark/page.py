"""The page of a table: every object with the scores, pictures and meshes of all methods, and what was not scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.cameras.rigs import rig
from core.errors import UserError
from core.images import composite, contact_sheet
from core.mesh.thin import thin
from core.render.raster import render_mesh
from core.report import Model, ReportItem, Table, write_report
from core.types import Mesh
from projects.benchmark.pairing import pair, single
from projects.benchmark.pictures import read
from projects.benchmark.protocol import Protocol
from projects.benchmark.scoring import shapes

MOST_SHOWN = 60  # objects on the page; more would make it too heavy to open
THUMBNAIL = 128  # pixels; larger views are shown at this size
MESH_VIEWS, MESH_SIZE, MESH_FACES = 8, 96, 20_000  # pictures of a mesh, which show no finer detail
TRUTH = "truth"


def items(
    protocol: Protocol, names: Sequence[str], methods: Mapping[str, Path], gt: Path, result: Mapping[str, Any]
) -> list[ReportItem]:
    """The first objects with all that there is to see, and each method's scores or the cause why it has none."""
    found = []
    for name in names[:MOST_SHOWN]:
        outcomes = {method: result["objects"][method][name] for method in methods}
        scored = {method: pred for method, pred in methods.items() if outcomes[method]["status"] == "SCORED"}
        views, models = compared(protocol, name, scored, gt)
        found.append(
            ReportItem(
                name=name,
                views=views,
                models=models,
                source=given_view(protocol, name, gt) if protocol.compares_views else None,
                scores={method: scores_of(protocol, outcome) for method, outcome in outcomes.items()},
            )
        )
    return found


def compared(
    protocol: Protocol, name: str, methods: Mapping[str, Path], gt: Path
) -> tuple[dict[str, Tensor], dict[str, Model]]:
    """What the measures saw of an object: views as they were compared, meshes as they lay, the truth's first."""
    views: dict[str, Tensor] = {}
    models: dict[str, Model] = {}
    meshes: dict[str, Mesh] = {}
    for method, pred in methods.items():
        if protocol.compares_views:
            made, true = pair(protocol, name, pred, gt)
            views |= {TRUTH: thumbnails(true.images), method: thumbnails(made.images)}
        elif protocol.reads_views:
            views[method] = thumbnails(single(protocol, name, pred, gt).images)
        for kind in protocol.kinds():
            path = protocol.prediction.path(pred, kind, name)
            video = (path if path.is_dir() else path.parent) / "turntable.mp4"
            models[method] = Model(video=video if video.is_file() else None)
        if protocol.shapes:
            predicted, truth = shapes(protocol, name, pred, gt)
            meshes |= {TRUTH: truth.mesh, method: predicted.mesh}
    for whose, image in pictures_of(meshes).items():
        views[f"{whose}: mesh" if whose in views else whose] = image
    films = {whose: model.video for whose, model in models.items()}
    return views, {whose: Model(mesh, films.get(whose)) for whose, mesh in meshes.items()} or models


def pictures_of(meshes: Mapping[str, Mesh]) -> dict[str, Float[Tensor, "v 3 h w"]]:
    """Renderings of meshes on white, all moved and scaled as brings the truth to the unit cube."""
    if not meshes:
        return {}
    truth = meshes[TRUTH].vertices
    low, high = truth.amin(dim=0), truth.amax(dim=0)
    cameras = rig("syncdreamer", size=MESH_SIZE)[list(range(0, 16, 16 // MESH_VIEWS))]
    found = {}
    for whose, mesh in meshes.items():
        small = thin(mesh, MESH_FACES)
        placed = Mesh((small.vertices - (low + high) / 2) / (high - low).max(), small.faces, small.colors)
        found[whose] = composite(render_mesh(placed, cameras))
    return found


def thumbnails(images: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 small_h small_w"]:
    """At most `THUMBNAIL` pixels on the longer side."""
    side = max(images.shape[-2:])
    if side <= THUMBNAIL:
        return images
    return F.interpolate(images, scale_factor=THUMBNAIL / side, mode="area")


def scores_of(protocol: Protocol, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """A method's line in an object's own table."""
    cause = f": {outcome['cause']}" if outcome["cause"] else ""
    line: dict[str, Any] = {"status": outcome["status"] + cause}
    line |= {column: outcome["scores"].get(column) for column in protocol.columns}
    notes = "; ".join(f"{column}: {note}" for column, note in outcome["notes"].items())
    if outcome["identical"]:
        notes = f"{outcome['identical']} views are identical to the truth" + (f"; {notes}" if notes else "")
    return line | ({"notes": notes} if notes else {})


def given_view(protocol: Protocol, name: str, gt: Path) -> Float[Tensor, "3 h w"] | None:
    """The view that a method was given of an object, where the protocol names one of the true views."""
    try:
        number = protocol.input_of(name, gt)
        if number is None:
            return None
        true = read(protocol.truth, protocol.truth.path(gt, "views", name), protocol, number)
    except UserError:  # it is each method's outcome, which says so
        return None
    return true.images[list(true.numbers).index(number)] if number in true.numbers else None


def overview(shown: Sequence[ReportItem], columns: int = 8) -> Float[Tensor, "3 h w"]:
    """Per object a row of pictures of the truth, then one of each method, evenly chosen."""
    rows = []
    for item in shown:
        for images in item.views.values():
            rows.append(images[torch.linspace(0, len(images), columns + 1)[:columns].long()])
    if len({row.shape[-2:] for row in rows}) > 1:  # objects of different sizes: each is padded to the largest
        height, width = (max(row.shape[axis] for row in rows) for axis in (-2, -1))
        rows = [F.pad(row, (0, width - row.shape[-1], 0, height - row.shape[-2]), value=1.0) for row in rows]
    return contact_sheet(rearrange(torch.stack(rows), "r v c h w -> (r v) c h w"), columns)


def write_page(path: Path, protocol: Protocol, shown: Sequence[ReportItem], result: Mapping[str, Any]) -> None:
    """The table, what was not scored and why, and the objects in `shown`."""
    methods = list(result["objects"])
    objects = len(result["objects"][methods[0]])
    more = f" Shown: the first {len(shown)} of {objects} objects." if len(shown) < objects else ""
    lacking = f" Not scored: {'; '.join(result['not_scored'])}." if result["not_scored"] else ""
    tables = [Table("", result["summary"])]
    if result["differences"]:
        tables.append(Table(f"Minus {result['reference']}, object by object", result["differences"], mark_best=False))
    write_report(
        path,
        title=f"{', '.join(methods)}: {protocol.name}",
        summary=f"{protocol.what}{more}{lacking}",
        items=shown,
        metrics=tables,
        provenance={"protocol": result["protocol"], "truth": result["truth"], **result["provenance"]},
    )
