"""One HTML page with everything about a result in it: images, mesh, video, numbers and where they come from.

Nothing is loaded from elsewhere (the page forbids it to itself), so it can be mailed and opened offline. The page's
form, and the small WebGL mesh viewer, stand in `report.html` beside this module; here its slots are filled.
"""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.files import atomic_file
from core.images import encode_png
from core.mesh.thin import thin
from core.metrics.summary import Rows, laid_out
from core.types import Mesh

MAX_FACES = 120_000  # about 3 MB in the page; larger meshes are thinned for the viewer only
MAX_VIEWERS = 8  # browsers give a page about 16 WebGL contexts
MARK = ' class="best"'


@dataclass(frozen=True)
class Model:
    """A 3D result.

    Args:
        video: an .mp4 file that turns around it; shown where the browser has no WebGL, or where no mesh is.
    """

    mesh: Mesh | None = None
    video: str | Path | None = None


@dataclass(frozen=True)
class Table:
    """Numbers under a title: row name -> column name -> value.

    The best number of a column is set bold; which that is, and how many digits are shown, `core.metrics.summary` says.
    """

    title: str
    rows: Rows
    mark_best: bool = True


@dataclass(frozen=True)
class ReportItem:
    """One object: what is there is shown.

    Args:
        views: by whose they are (a method, the truth), [V, 3 or 4, H, W] in [0, 1]; view by view they stand together.
        source: the input image.
        models: by whose they are.
        scores: row name -> column name -> value, of this object alone.
    """

    name: str
    views: Mapping[str, Float[Tensor, "num_views channels height width"]] = field(default_factory=dict)
    source: Float[Tensor, "_ _ _"] | None = None
    models: Mapping[str, Model] = field(default_factory=dict)
    scores: Rows | None = None
    caption: str = ""


def write_report(
    path: str | Path,
    *,
    title: str,
    items: Sequence[ReportItem],
    metrics: Rows | Sequence[Table] = (),
    provenance: Mapping[str, Any] | None = None,
    summary: str = "",
) -> None:
    """Write the page, whole or not at all.

    Args:
        metrics: one table, or several with titles. Of several items they stand first.
        provenance: nested mappings are written as dotted names; `config` goes into a part that unfolds.
        summary: a sentence or two under the title.
    """
    canvases = iter(range(MAX_VIEWERS))
    parts = ["\n".join(_item(item, canvases) for item in items)]
    if metrics:
        tables = [Table("", metrics)] if isinstance(metrics, Mapping) else metrics
        shown = "".join(
            (f"<h3>{html.escape(table.title)}</h3>" if table.title else "") + _table(table.rows, table.mark_best)
            for table in tables
        )
        parts.insert(0 if len(items) != 1 else 1, f"<h2>Metrics</h2>{shown}")
    slots = {
        "title": html.escape(title),
        "summary": f'<p class="soft">{html.escape(summary)}</p>' if summary else "",
        "parts": "\n".join(parts),
        "provenance": _provenance(provenance) if provenance else "",
    }
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], template)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _item(item: ReportItem, canvases: Iterator[int]) -> str:
    """`canvases` yields as long as the page may have one more mesh viewer."""
    cards = []
    if item.source is not None:
        cards.append(f'<h3>Input</h3><div class="stage">{_image(item.source, "input image")}</div>')
    if item.views:
        cards.append(_spin(list(item.views)))
    for name, model in item.models.items():
        whose = f" · {html.escape(name)}" if name else ""
        if model.mesh is not None and next(canvases, None) is not None:
            cards.append(_viewer(model.mesh, model.video, whose))
        elif model.video is not None:
            cards.append(f'<h3>Turntable{whose}</h3><div class="stage">{_video(model.video)}</div>')
    stages = "\n".join(f'<div class="card">{card}</div>' for card in cards)
    caption = f'<p class="soft">{html.escape(item.caption)}</p>' if item.caption else ""
    scores = _table(item.scores) if item.scores else ""
    return (
        f'<section><h2>{html.escape(item.name)}</h2>{caption}{scores}<div class="stages">{stages}</div>'
        f"{_grid(item.views)}</section>"
    )


def _spin(names: Sequence[str]) -> str:
    """Empty stages; the page's script turns the pictures of the grid below in them."""
    figures = "".join(
        f'<figure><div class="stage stack"></div><figcaption>{html.escape(name)}</figcaption></figure>'
        for name in names
    )
    shape = "pair" if len(names) > 1 else ""
    slider = '<input type="range" min="0" max="0" value="0" aria-label="view"><output></output>'
    return f'<h3>Views</h3><div class="spin"><div class="{shape}">{figures}</div><div class="bar">{slider}</div></div>'


def _grid(views: Mapping[str, Tensor]) -> str:
    """All views, below each other those of one number."""
    if not views:
        return ""
    most = max(len(images) for images in views.values())
    figures = []
    for index in range(most):
        shown = "".join(
            _image(images[index], f"{name}, view {index}") if index < len(images) else '<span class="none"></span>'
            for name, images in views.items()
        )
        figures.append(f"<figure>{shown}<figcaption>{index}</figcaption></figure>")
    order = f" (from the top: {html.escape(', '.join(views))})" if len(views) > 1 else ""
    return f'<p class="legend">All {most} views{order}</p><div class="views">{"".join(figures)}</div>'


def _viewer(mesh: Mesh, video: str | Path | None, whose: str) -> str:
    thinned = thin(mesh, MAX_FACES)
    low, high = thinned.vertices.amin(dim=0), thinned.vertices.amax(dim=0)
    scaled = (thinned.vertices - low) / (high - low).clamp(min=1e-9)
    colors = thinned.colors if thinned.colors is not None else torch.full_like(thinned.vertices, 0.75)
    data = {
        "low": low.tolist(),
        "high": high.tolist(),
        "positions": _base64((scaled * 65535).round().to(torch.int32).numpy().astype("<u2").tobytes()),
        "colors": _base64((colors.clamp(0, 1) * 255).round().to(torch.uint8).numpy().tobytes()),
        "faces": _base64(thinned.faces.numpy().astype("<u4").tobytes()),
    }
    shown = "" if len(thinned.faces) == len(mesh.faces) else f", {len(thinned.faces):,} shown"
    size = f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces{shown}"
    modes = "".join(
        f'<button type="button" aria-pressed="{str(mode == "colour").lower()}">{mode}</button>'
        for mode in ("colour", "shape", "normals")
    )
    fallback = _video(video, hidden=True) if video is not None else ""
    return (
        f'<div class="mesh"><h3>Mesh{whose}</h3><div class="stage">'
        f'<canvas tabindex="0" aria-label="mesh; drag to turn"></canvas>{fallback}</div>'
        f'<div class="bar">{modes}<span>drag to turn, wheel to zoom; {size}</span></div>'
        f'<script type="application/json">{json.dumps(data)}</script></div>'
    )


def _table(rows: Rows, mark_best: bool = True) -> str:
    titles, cells = laid_out(rows, mark_best=mark_best)
    body = ""
    for name, row in cells.items():
        values = "".join(f"<td{MARK if best else ''}>{html.escape(text)}</td>" for text, best in row)
        body += f"<tr><td>{html.escape(name)}</td>{values}</tr>"
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="card scroll">{table}</div>'


def _provenance(provenance: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in provenance.items() if key != "config"}
    page = f'<h2>Where this comes from</h2><div class="card scroll">{_facts(rest)}'
    if provenance.get("config"):
        page += f"<details><summary>Configuration</summary>{_facts({'config': provenance['config']})}</details>"
    return page + "</div>"


def _facts(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in _flat(values)
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        pairs += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return pairs


def _image(image: Tensor, label: str) -> str:
    return f'<img alt="{html.escape(label)}" src="data:image/png;base64,{_base64(encode_png(image))}">'


def _video(path: str | Path, hidden: bool = False) -> str:
    content = _base64(Path(path).read_bytes())
    hide = " hidden" if hidden else ""
    return f'<video{hide} autoplay loop muted playsinline controls src="data:video/mp4;base64,{content}"></video>'


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
