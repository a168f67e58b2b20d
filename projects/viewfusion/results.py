"""What `generate` leaves of one object: a view set, a contact sheet, a video, and the key of all they depend on."""

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from core.batch import Record
from core.foreground import with_white_as_alpha
from core.images import composite, contact_sheet, truncated, write_image
from core.media import turn_fps, write_video
from core.types import Cameras
from core.views import TRANSFORMS, ViewSet, write_views
from projects.viewfusion.request import Request

MARK, VIEWS, SHEET = "result.json", "views", "contact_sheet.png"
TURNTABLE, VIDEO = "turntable.mp4", "views.mp4"  # of a circle; of any other poses, in the order asked for
MAX_COLUMNS = 9


def views_of(
    request: Request, inputs: Float[Tensor, "k 4 h w"], made: Float[Tensor, "m 3 h w"]
) -> Float[Tensor, "n 4 h w"]:
    """The wanted views, RGBA, in their order; a circle begins with the input itself.

    Args:
        inputs: as the model saw them, on white.
        made: pixels in [-1, 1] of all steps.
    """
    rgba = with_white_as_alpha(truncated(made / 2 + 0.5)) if len(made) else made
    # On white as all views are: its alpha says what is object, and does not mix colours a second time.
    given = torch.cat([inputs[0, :3], (inputs[0, 3:] > 0).to(inputs)])
    return torch.stack([given if step is None else rgba[step] for step in request.made])


def write_result(
    folder: Path,
    request: Request,
    inputs: Float[Tensor, "k 4 h w"],
    views: Float[Tensor, "n 4 h w"],
    cameras: Cameras,
    name: str,
    provenance: Record,
    record: Record,
) -> Record:
    """Everything into `folder`; returns the record, which is also its mark."""
    for number, image in enumerate(inputs):
        write_image(folder / ("input.png" if len(inputs) == 1 else f"input_{number}.png"), image[:3])
    write_views(folder / VIEWS, ViewSet(views, cameras, name, provenance=provenance))
    pictures = composite(views)
    write_image(folder / SHEET, sheet(inputs[:, :3], pictures))
    files = [f"{VIEWS}/{TRANSFORMS}", SHEET]
    if len(views) > 1:
        name = TURNTABLE if request.is_circle else VIDEO
        video = write_video(folder / name, pictures, fps=turn_fps(len(views)))
        files += [video.name] if video.is_file() else []
    record = {**record, "views": len(views), "files": files}
    (folder / MARK).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def sheet(inputs: Float[Tensor, "k 3 h w"], views: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "3 sheet_h sheet_w"]:
    """A row of the inputs, then the views."""
    columns = min(MAX_COLUMNS, max(len(inputs), len(views)))
    first = torch.cat([inputs, inputs.new_ones(-len(inputs) % columns, *inputs.shape[1:])])
    return contact_sheet(torch.cat([first, views]), columns)
