"""Zero-1-to-3's framing of a photo (Liu et al. 2023, the official gradio demo)."""

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.errors import BadImage
from core.images import from_pil, to_pil

THRESHOLD = 127  # of 255: from the next value on a pixel is object, and keeps its colour as it is


def zero123_framed(
    rgba: Float[Tensor, "4 height width"], *, crop_size: int, size: int
) -> tuple[Float[Tensor, "3 size size"], tuple[int, int, int, int]]:
    """A picture as Zero-1-to-3's demo frames it, and the box [left, top, right, bottom) that it cuts out.

    Alpha is cut at `THRESHOLD`; what lies outside becomes white. The object's bounding box, its last row and column
    included, is shrunk (Lanczos) to at most `crop_size`, and pasted centred on a white square. A smaller object stays
    as small as it is: nothing is enlarged.

    Args:
        crop_size: most pixels of the box's longer side (the demo: 200).
        size: side of the result (the demo: 256).

    Raises BadImage when no pixel passes the threshold.
    """
    values = np.asarray(to_pil(rgba))
    inside = values[..., 3] > THRESHOLD
    if not inside.any():
        raise BadImage(f"no foreground pixels: alpha is nowhere above {THRESHOLD} of 255; give a visible object")
    rows, columns = np.nonzero(inside)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    rgb = np.where(inside[..., None], values[..., :3], np.uint8(255))
    item = Image.fromarray(rgb).crop(box)
    item.thumbnail((crop_size, crop_size), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (size, size), (255, 255, 255))
    canvas.paste(item, ((size - item.width) // 2, (size - item.height) // 2))
    return from_pil(canvas), box
