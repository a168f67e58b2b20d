"""Toybox objects as the multi-view model learns them, gone through the frozen networks once."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import orbit
from core.config import whole
from core.data.conventions import NUM_VIEWS
from core.data.encoded import encoded
from core.data.toybox import open_pack
from core.errors import BadConfig
from core.models.latents import Latents
from core.models.text import TextEncoder
from projects.mvdream_sds.cameras import condition

RING_ELEVATION, DISTANCE = math.radians(30), 1.5  # of the toybox's 16 target views; its input views vary in elevation
AT_ONCE = 250  # captions that pass through the text encoder together


class EncodedToybox:
    """Evenly spaced views of an object, either of the ring or, as often, of the views with elevations of their own.

    Azimuths are the objects' own: 0 is the front, MVDream's 90 degrees. The autoencoder's noise is still drawn at every
    step, from stored means and log-variances (`core.data.encoded`).

    Args:
        root: a folder made by data_tools.toybox.
        split: train, val or test.
        latents: the autoencoder.
        text_encoder: gives the captions' context.
        cache: folder for the encoded views; a file there belongs to one data set and one network.
        num_views: of each object; a divisor of 16.
        max_dropped: the fraction of objects that may be left out as broken; BadData when more are.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str,
        latents: Latents,
        text_encoder: TextEncoder,
        cache: str,
        num_views: int = 4,
        max_dropped: float = 0.0,
    ) -> None:
        whole("num_views", num_views, most=NUM_VIEWS)
        if NUM_VIEWS % num_views:
            raise BadConfig(f"num_views={num_views}: the toybox has {NUM_VIEWS} views around; choose a divisor of that")
        self.num_views = num_views
        self.pack = open_pack(root, split, max_dropped)
        stem, views = Path(cache) / split, range(2 * NUM_VIEWS)
        self.moments = encoded(self.pack, views, latents, lambda x: latents.moments(x).half(), stem, self.pack.sha256)
        with torch.no_grad():
            chunks = [self.pack.captions[first : first + AT_ONCE] for first in range(0, len(self), AT_ONCE)]
            self.context: Float[Tensor, "objects l e"] = torch.cat([text_encoder(captions) for captions in chunks])
        self.cameras = condition(toybox_poses(self.pack.elevations))

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        part, start = torch.randint(2, (), generator=generator), torch.randint(NUM_VIEWS, (), generator=generator)
        step = NUM_VIEWS // self.num_views
        chosen = [int(part) * NUM_VIEWS + (int(start) + view * step) % NUM_VIEWS for view in range(self.num_views)]
        return {
            "moments": torch.from_numpy(self.moments[index, chosen]).float(),
            "camera": self.cameras[index, chosen],
            "context": self.context[index],
        }

    def images(self) -> "ToyboxImages":
        """Every view by itself."""
        return ToyboxImages(self)


class ToyboxImages:
    """Every view of every object by itself, with the context of its caption and without its camera."""

    def __init__(self, objects: EncodedToybox) -> None:
        self.objects = objects

    def __len__(self) -> int:
        return len(self.objects) * 2 * NUM_VIEWS

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        number, view = divmod(index, 2 * NUM_VIEWS)
        moments = self.objects.moments[number, view].astype(np.float32)
        return {"moments": torch.from_numpy(moments), "context": self.objects.context[number]}


def toybox_poses(elevations: Float[Tensor, "objects 16"]) -> Float[Tensor, "objects 32 4 4"]:
    """Of each object's 16 target views (the ring), then of its 16 input views (at these elevations, in radians)."""
    azimuths = (2 * math.pi / NUM_VIEWS * torch.arange(NUM_VIEWS)).expand(len(elevations), NUM_VIEWS)
    ring = torch.full_like(elevations, RING_ELEVATION)
    return torch.cat([orbit(azimuths, each, torch.full_like(each, DISTANCE)) for each in (ring, elevations)], dim=1)
