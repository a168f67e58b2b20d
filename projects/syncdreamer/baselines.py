"""Three answers that need no model; a trained one must beat them all.

The ring is relative to the input: view 0 stands at the input's azimuth.
"""

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from core.data.toybox import NUM_VIEWS, ToyboxPack


def input_repeated(inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n v 3 h w"]:
    """The input view, 16 times."""
    return repeat(inputs, "n c h w -> n v c h w", v=NUM_VIEWS)


def mean_view(pack: ToyboxPack) -> Float[Tensor, "3 h w"]:
    """The mean of all training target views (objects have no preferred start, so one mean serves all 16)."""
    total = sum(pack.pixels(i, list(range(NUM_VIEWS))).double().mean(dim=0) for i in range(len(pack.uids)))
    return (total / len(pack.uids)).float()


def nearest_object(pack: ToyboxPack, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n v 3 h w"]:
    """The target views of the training object, at the start, whose input view differs least from the given one."""
    best = torch.full((len(inputs),), float("inf"))
    place = torch.zeros(len(inputs), 2, dtype=torch.long)
    flat = inputs.flatten(1)
    for number in range(len(pack.uids)):
        candidates = pack.pixels(number, list(range(NUM_VIEWS, 2 * NUM_VIEWS))).flatten(1)
        distance, start = torch.cdist(flat, candidates).min(dim=1)
        closer = distance < best
        best[closer] = distance[closer]
        place[closer] = torch.stack([torch.full_like(start, number), start], dim=1)[closer]
    found = []
    for number, start in place.tolist():
        found.append(pack.pixels(number, [(start + view) % NUM_VIEWS for view in range(NUM_VIEWS)]))
    return torch.stack(found)
