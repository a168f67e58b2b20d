"""ViewFusion's framing of a photo: a canvas around it on which the object is as broad as in the training renderings.

The official script (process_real_images) takes the breadth of one rendering that is not published; here it is a number.
"""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.errors import BadImage
from core.images import MAX_PIXELS, from_pil, to_pil


def viewfusion_framed(
    rgba: Float[Tensor, "4 height width"], *, target_breadth: float, size: int | None = None
) -> tuple[Float[Tensor, "4 side side"], float]:
    """The picture, unscaled, in the middle of a transparent square, and the breadth that it had itself.

    Breadth is the fraction of a picture's columns in which any alpha is above 0; it becomes `target_breadth`, as far as
    whole pixels allow. Where the square is smaller than the picture, the picture is cut.

    Args:
        size: side to which the square is resized (Pillow's bilinear); None leaves it, as the official script does.

    Raises BadImage when no pixel is visible.
    """
    columns = (rgba[3] > 0).any(dim=0)
    if not columns.any():
        raise BadImage("no foreground pixels: alpha is 0 everywhere; give a picture with a visible object")
    breadth = columns.double().mean().item()
    image = to_pil(rgba)
    # A longer side times a breadth of columns: for pictures that are higher than broad, the official arithmetic.
    side = int(breadth * max(image.size) / target_breadth)
    if side**2 > MAX_PIXELS:
        least = breadth * max(image.size) / int(MAX_PIXELS**0.5)
        raise BadImage(f"target_breadth={target_breadth} makes a square of {side} pixels; use {least:.2g} or more")
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(image, (int((side - image.width) / 2), int((side - image.height) / 2)))
    if size is not None:
        canvas = canvas.resize((size, size), Image.Resampling.BILINEAR)
    return from_pil(canvas), round(breadth, 4)
