"""What each pixel of a toybox view shows: told by its colour, since no two parts of an object share one."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.data.toybox_captions import COLORS, SHAPES, wearers

LIGHT = (0.4, 1.0)  # of the renderings: what a colour is multiplied by, from the darkest side to the brightest
NAMES = tuple(COLORS)
NOTHING = -1


def surfaces(rgba: Float[Tensor, "v 4 h w"], caption: str) -> Int[Tensor, "v 3 h w"]:
    """For each pixel the numbers of its colour (in `COLORS`), of its shape (in `SHAPES`), and of its part.

    A part's is colour times the number of shapes plus shape; paint on a front is of no part. Outside the object is
    `NOTHING`. Each pixel gets the caption's colour that some light brings nearest to it, at edges perhaps another's.
    """
    worn = wearers(caption)
    colors = torch.tensor([COLORS[color] for color in worn])
    pixels = rgba[:, :3].movedim(1, -1)
    light = (pixels @ colors.T / colors.square().sum(dim=-1)).clamp(*LIGHT)
    nearest = (pixels[..., None, :] - light[..., None] * colors).square().sum(dim=-1).argmin(dim=-1)
    color = torch.tensor([NAMES.index(color) for color in worn])
    shape = torch.tensor([SHAPES.index(shape) for shape, _ in worn.values()])
    owned = torch.tensor([is_own for _, is_own in worn.values()])
    part = torch.where(owned, color * len(SHAPES) + shape, NOTHING)
    found = torch.stack([color[nearest], shape[nearest], part[nearest]], dim=1)
    return torch.where(rgba[:, 3:] > 0.5, found, NOTHING)


def shares(numbers: Int[Tensor, "n h w"], count: int, places: int) -> Float[Tensor, "n count p p"]:
    """How many pixels of each of `places` x `places` fields have each number below `count`."""
    n, h, w = numbers.shape
    rows, columns = (torch.arange(side) * places // side for side in (h, w))
    field = rows[:, None] * places + columns
    image = torch.arange(n)[:, None, None]
    index = (image * count + numbers.clamp(min=0)) * places**2 + field
    totals = torch.zeros(n * count * places**2)
    totals.index_add_(0, index.flatten(), (numbers >= 0).flatten().float())
    return totals.view(n, count, places, places)
