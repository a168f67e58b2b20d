"""Pictures as Zero-1-to-3 reads them: an object on white, square, of the model's size."""

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.errors import BadImage
from core.images import composite, framed, from_pil, to_pil


def model_input(
    rgba: Float[Tensor, "4 height width"], size: int, *, crop_size: int = -1, alpha: str = "blend"
) -> Float[Tensor, "4 size size"]:
    """A picture laid on white (its colours) and its mask, resized as the official loaders do: Pillow's bilinear.

    Args:
        crop_size: the object's longer side in pixels, centred (`core.images.framed`); -1 keeps the framing. A picture
            that is not square is then padded with white, where the official loader squeezes it.
        alpha: `blend` lays it over white, as the loader of photos does; `cut`, that of renderings, makes white only
            what has no alpha at all.

    Raises BadImage where nothing is visible.
    """
    if not (rgba[3] > 0).any():
        raise BadImage("no foreground pixels: alpha is 0 everywhere; give a picture with a visible object")
    if crop_size != -1:
        rgba = framed(rgba, crop_size=crop_size, size=size)
    rgba = _padded(rgba)
    over = rgba if alpha == "blend" else torch.cat([rgba[:3], (rgba[3:] > 0).to(rgba)])
    flat = to_pil(torch.cat([composite(over), rgba[3:]]))
    planes = (flat.convert("RGB"), Image.merge("RGB", [flat.getchannel("A")] * 3))  # RGBA would weight by alpha
    colors, masks = (from_pil(plane.resize((size, size), Image.Resampling.BILINEAR)) for plane in planes)
    return torch.cat([colors, masks[:1]])


def _padded(rgba: Float[Tensor, "4 height width"]) -> Float[Tensor, "4 side side"]:
    """Transparent to the longer side, the picture in the middle."""
    height, width = rgba.shape[1:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return torch.nn.functional.pad(rgba, (left, side - width - left, top, side - height - top))
