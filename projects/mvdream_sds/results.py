"""What `generate` leaves of one text: a view set per sample, the official picture, and the record of both."""

import json
from pathlib import Path

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.batch import Record
from core.foreground import with_alpha
from core.images import composite, contact_sheet, truncated, write_image
from core.media import turn_fps, write_video
from core.types import Cameras
from core.views import TRANSFORMS, ViewSet, write_views

MARK, SHEET, TURNTABLE = "result.json", "contact_sheet.png", "turntable.mp4"
MANY_VIEWS = 8  # fewer make no turn


def write_result(
    folder: Path,
    images: Float[Tensor, "samples v 3 h w"],
    cameras: Cameras | None,
    mask: str,
    caption: str,
    provenance: Record,
    record: Record,
    *,
    is_turn: bool,
) -> Record:
    """Everything into `folder`; returns the record, which is also its mark.

    Args:
        images: in [0, 1], not cut to 8 bits.
        cameras: None where the views have none; they are then plain pictures.
        mask: how the object is found (`core.masks`).
        is_turn: the views go once around evenly.
    """
    images = truncated(images.clamp(0, 1))
    # The official picture: a row for each sample, as decoded, without a mask.
    write_image(folder / SHEET, contact_sheet(rearrange(images, "s v c h w -> (s v) c h w"), images.shape[1]))
    files, masks = [SHEET], []
    for number, views in enumerate(images):
        if cameras is None:
            names = [f"{number}/{view:03d}.png" for view in range(len(views))]
            for name, view in zip(names, views, strict=True):
                write_image(folder / name, view)
            files += names
            continue
        rgba, labels = with_alpha(views, mask)
        masks += labels
        source = {**provenance, "mask": list(dict.fromkeys(labels))}
        write_views(folder / str(number), ViewSet(rgba, cameras, caption, caption, source))
        files.append(f"{number}/{TRANSFORMS}")
        if is_turn and len(views) >= MANY_VIEWS:
            path = folder / str(number) / TURNTABLE
            video = write_video(path, composite(rgba), fps=turn_fps(len(views)))
            files += [f"{number}/{video.name}"] if video.is_file() else []
    record = {**record, "samples": len(images), "views": images.shape[1], "mask": sorted(set(masks)), "files": files}
    (folder / MARK).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record
