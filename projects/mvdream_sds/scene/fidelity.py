"""How well a mesh stands for the field that it came from: their pictures from the same cameras, side by side."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.images import composite
from core.metrics.images import mask_iou, psnr


@dataclass(frozen=True)
class Fidelity:
    """Over white, mean and worst view; `silhouettes` is the mean overlap (IoU) of what is at least half opaque."""

    psnr: float
    worst_psnr: float
    silhouettes: float

    def to_json(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def compare(mesh: Float[Tensor, "views 4 h w"], field: Float[Tensor, "views 4 h w"]) -> Fidelity:
    """Of RGBA pictures with straight alpha."""
    scores = psnr(composite(mesh), composite(field))
    overlap = mask_iou(mesh[:, 3], field[:, 3])
    return Fidelity(scores.mean().item(), scores.min().item(), overlap.mean().item())


def side_by_side(
    mesh: Float[Tensor, "views 4 h w"], field: Float[Tensor, "views 4 h w"]
) -> Float[Tensor, "rows 3 h w"]:
    """The field's views, then the mesh's: two rows of a contact sheet."""
    return torch.cat([composite(field), composite(mesh)])
