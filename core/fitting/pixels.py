"""The pixels of a view set as training data: a ray, a colour and a mask value each."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from core.cameras.rays import pixel_rays
from core.errors import BadViewSet
from core.training.randomness import derive, epoch_order
from core.types import Rays
from core.views import ViewSet

WHITE = 0.99  # a pixel with any channel below is taken for foreground when rays are chosen


@dataclass(frozen=True)
class Pixels:
    """All pixels of all views."""

    rays: Rays
    rgb: Float[Tensor, "pixels 3"]  # over white
    mask: Float[Tensor, "pixels 1"]
    foreground: Int[Tensor, "foreground"]  # indices

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, index: Tensor) -> tuple[Rays, Float[Tensor, "b 3"], Float[Tensor, "b 1"]]:
        return self.rays[index], self.rgb[index], self.mask[index]

    @staticmethod
    def from_views(views: ViewSet, *, offset: float = 0.5) -> "Pixels":
        """Args: `offset` of a pixel's centre from its integer coordinates."""
        rays = pixel_rays(views.cameras, offset=offset)
        rgb = rearrange(views.rgb(1.0), "v c h w -> (v h w) c")
        mask = rearrange(views.images[:, 3], "v h w -> (v h w) 1")
        foreground = (~(rgb > WHITE).all(-1)).nonzero()[:, 0]
        if not (mask > 0).any() or len(foreground) == 0:
            raise BadViewSet(f"view set {views.name!r} shows no foreground: every pixel is transparent or white")
        flat = Rays(rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3))
        return Pixels(flat, rgb, mask, foreground)

    def batch(self, seed: int, step: int, *, num_random: int, num_foreground: int) -> Int[Tensor, "batch"]:
        """Indices of the rays of a step: some from anywhere, some from the foreground, each in shuffled passes."""
        everywhere = _chosen(derive(seed, "rays"), step, num_random, len(self))
        front = _chosen(derive(seed, "foreground"), step, num_foreground, len(self.foreground))
        return torch.cat([everywhere.to(self.foreground), self.foreground[front]])  # drawn on the CPU

    def to(self, device: torch.device | str) -> "Pixels":
        rays = Rays(self.rays.origins.to(device), self.rays.directions.to(device))
        return Pixels(rays, self.rgb.to(device), self.mask.to(device), self.foreground.to(device))


def _chosen(seed: int, step: int, count: int, total: int) -> Int[Tensor, "count"]:
    """Part of a shuffled pass over `total` items; the next pass begins when the rest would not fill a batch."""
    count = min(count, total)
    epoch, part = divmod(step, max(total // max(count, 1), 1))
    return epoch_order(seed, epoch, total)[part * count : (part + 1) * count]
