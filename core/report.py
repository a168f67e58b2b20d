"""One HTML page with everything about a result in it: images, mesh, video, numbers and where they come from.

Nothing is loaded from elsewhere (the page forbids it to itself), so it can be mailed and opened offline. The page's
form, and the small WebGL mesh viewer, stand in `report.html` beside this module; here its slots are filled.
"""

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import BadMesh
from core.files import atomic_file
from core.images import encode_png
from core.metrics.summary import Rows, laid_out
from core.types import Mesh

MAX_FACES = 120_000  # about 3 MB in the page; larger meshes are thinned for the viewer only
MAX_VIEWERS = 8  # browsers give a page about 16 WebGL contexts
MARK = ' class="best"'


@dataclass(frozen=True)
class ReportItem:
    """One object: what is there is shown.

    Args:
        views: generated views, [V, 3 or 4, H, W] in [0, 1].
        truth: the true views in the same order.
        source: the input image.
        video: an .mp4 file that turns around the result; shown where the browser has no WebGL, or where no mesh is.
    """

    name: str
    views: Float[Tensor, "num_views channels height width"]
    truth: Float[Tensor, "num_views _ _ _"] | None = None
    source: Float[Tensor, "_ _ _"] | None = None
    mesh: Mesh | None = None
    video: str | Path | None = None
    caption: str = ""


def write_report(
    path: str | Path,
    *,
    title: str,
    items: Sequence[ReportItem],
    metrics: Rows | None = None,
    provenance: Mapping[str, Any] | None = None,
    summary: str = "",
) -> None:
    """Write the page, whole or not at all.

    Args:
        metrics: row name -> column name -> value. The best number of a column is set bold; which that is, and how many
            digits are shown, `core.metrics.summary` says of each metric.
        provenance: nested mappings are written as dotted names; `config` goes into a part that unfolds.
        summary: a sentence or two under the title.
    """
    slots = {
        "title": html.escape(title),
        "summary": f'<p class="soft">{html.escape(summary)}</p>' if summary else "",
        "items": "\n".join(_item(item, viewer=index < MAX_VIEWERS) for index, item in enumerate(items)),
        "metrics": _metrics(metrics) if metrics else "",
        "provenance": _provenance(provenance) if provenance else "",
    }
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda slot: slots[slot[1]], template)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _item(item: ReportItem, *, viewer: bool) -> str:
    cards = []
    if item.source is not None:
        cards.append(f'<h3>Input</h3><div class="stage">{_image(item.source, "input image")}</div>')
    cards.append(_spin(item))
    if item.mesh is not None and viewer:
        cards.append(_viewer(item.mesh, item.video))
    elif item.video is not None:
        cards.append(f'<h3>Turntable</h3><div class="stage">{_video(item.video)}</div>')
    stages = "\n".join(f'<div class="card">{card}</div>' for card in cards)
    caption = f'<p class="soft">{html.escape(item.caption)}</p>' if item.caption else ""
    return f'<h2>{html.escape(item.name)}</h2>{caption}<div class="stages">{stages}</div>{_grid(item)}'


def _spin(item: ReportItem) -> str:
    stacks = [("generated", item.views)] + ([("truth", item.truth)] if item.truth is not None else [])
    figures = "".join(
        f'<figure><div class="stage stack">{"".join(_image(view, f"{name} view") for view in images)}</div>'
        f"<figcaption>{name}</figcaption></figure>"
        for name, images in stacks
    )
    shape = "pair" if len(stacks) > 1 else ""
    slider = f'<input type="range" min="0" max="{len(item.views) - 1}" value="0" aria-label="view"><output></output>'
    return f'<h3>Views</h3><div class="spin"><div class="{shape}">{figures}</div><div class="bar">{slider}</div></div>'


def _grid(item: ReportItem) -> str:
    """All views; below each, where there is one, the truth."""
    figures = []
    for index, view in enumerate(item.views):
        truth = _image(item.truth[index], f"true view {index}") if item.truth is not None else ""
        figures.append(f"<figure>{_image(view, f'view {index}')}{truth}<figcaption>{index}</figcaption></figure>")
    what = "above: generated, below: the truth" if item.truth is not None else "as generated"
    legend = f'<p class="legend">All {len(item.views)} views ({what})</p>'
    return f'{legend}<div class="views">{"".join(figures)}</div>'


def _viewer(mesh: Mesh, video: str | Path | None) -> str:
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
        f'<div class="mesh"><h3>Mesh</h3><div class="stage"><canvas tabindex="0" aria-label="mesh; drag to turn">'
        f"</canvas>{fallback}</div>"
        f'<div class="bar">{modes}<span>drag to turn, wheel to zoom; {size}</span></div>'
        f'<script type="application/json">{json.dumps(data)}</script></div>'
    )


def thin(mesh: Mesh, max_faces: int) -> Mesh:
    """A coarser copy of a mesh with at most `max_faces` faces: vertices in one cell of a grid become their mean."""
    if len(mesh.faces) == 0 or not torch.isfinite(mesh.vertices).all():
        raise BadMesh(f"cannot show a mesh with {len(mesh.faces)} faces, or with NaN vertices")
    colors = None if mesh.colors is None else mesh.colors.detach().cpu()
    mesh = Mesh(mesh.vertices.detach().cpu(), mesh.faces.cpu(), colors)
    result, cells = mesh, 512
    low, side = mesh.vertices.amin(dim=0), (mesh.vertices.amax(dim=0) - mesh.vertices.amin(dim=0)).max()
    while len(result.faces) > max_faces:
        cell = ((mesh.vertices - low) / side.clamp(min=1e-9) * cells).floor().long()
        _, group, counts = torch.unique(cell, dim=0, return_inverse=True, return_counts=True)

        def mean(values: Tensor, group: Tensor = group, counts: Tensor = counts) -> Tensor:
            return values.new_zeros(len(counts), 3).index_add_(0, group, values) / counts[:, None]

        faces = group[mesh.faces]
        whole = (faces != faces.roll(1, dims=1)).all(dim=1)
        means = mean(mesh.vertices), None if mesh.colors is None else mean(mesh.colors)
        result, cells = Mesh(means[0], faces[whole], means[1]), cells * 3 // 4
    return result


def _metrics(metrics: Rows) -> str:
    titles, cells = laid_out(metrics)
    body = ""
    for name, row in cells.items():
        values = "".join(f"<td{MARK if best else ''}>{html.escape(text)}</td>" for text, best in row)
        body += f"<tr><td>{html.escape(name)}</td>{values}</tr>"
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>Metrics</h2><div class="card scroll">{table}</div>'


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
