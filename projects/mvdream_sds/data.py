"""What the multi-view model learns from: objects seen from several cameras, and single images, by turns.

Shi et al. 2023, section 3.2: "joint training". A step reads either objects (70 %) or images with captions (30 %), which
have no camera. Which of the two is a function of the seed and the step, alike on all processes.

An object has
  `pixels` [v, 3, H, W] in [-1, 1] or `moments` [v, 2c, h, w] (what the autoencoder made of them), `camera` [v, 16]
  (`cameras.condition`), and `caption` or `context` [l, e] (what the text encoder made of it).
A group of single images has the same without `camera`, and `caption` (a list) or `context` [v, l, e] for each image.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import default_collate

from core.config import number, whole
from core.errors import BadConfig, BadData
from core.training.loader import Items
from projects.mvdream_sds.cameras import condition, view_poses


@runtime_checkable
class HasImages(Protocol):
    """A set of objects whose views can also be had one by one."""

    def images(self) -> Items: ...


class ViewsAndImages:
    """Objects in most steps, single images in the others: as many images in each step.

    Epochs are counted over the objects; images are drawn uniformly, with replacement. A broken image counts as a broken
    item at the place of its group, and the group is drawn anew.

    Args:
        views: the objects.
        images: single images, each with `caption` or `context`; None: the objects' own views, without their cameras.
        p_2d: probability that a step is one of single images.
        images_per_item: single images in place of an object; its number of views makes both steps cost the same.
    """

    def __init__(
        self, *, views: Items, images: Items | None = None, p_2d: float = 0.3, images_per_item: int = 4
    ) -> None:
        number("p_2d", p_2d, 0, 1)
        whole("images_per_item", images_per_item)
        self.views, self.p_2d = views, p_2d
        if images is None and p_2d > 0:
            if not isinstance(views, HasImages):
                raise BadConfig(f"p_2d={p_2d} needs single images: set data.train.images, or data.train.p_2d=0")
            images = views.images()
        if images is not None and len(images) == 0:
            raise BadData("the set of single images is empty; check data.train.images")
        self.groups = None if images is None else _Groups(images, images_per_item, len(views))

    def __len__(self) -> int:
        return len(self.views)

    def of_step(self, generator: torch.Generator) -> Items:
        """The objects, or groups of single images (`core.training.loader.ItemsByStep`)."""
        is_2d = float(torch.rand((), generator=generator)) < self.p_2d
        return self.groups if is_2d and self.groups is not None else self.views


@dataclass(frozen=True)
class _Groups:
    """Groups of random images, each in place of an object: `__getitem__`'s index says nothing."""

    items: Items
    size: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        chosen = torch.randint(len(self.items), (self.size,), generator=generator).tolist()
        found = [self.items.__getitem__(number, generator) for number in chosen]
        return {**default_collate(found)}


class Prompts:
    """Texts to look at, from evenly spaced cameras: `camera` [v, 16] and `caption`.

    Args:
        elevation_deg: of all cameras.
        azimuth_deg: of the first one, as MVDream counts it: 90 is the front.
    """

    def __init__(
        self, *, prompts: list[str], num_views: int = 4, elevation_deg: float = 15.0, azimuth_deg: float = 90.0
    ) -> None:
        whole("num_views", num_views)
        self.prompts = prompts
        elevation, azimuth = math.radians(elevation_deg), math.radians(azimuth_deg)
        self.camera = condition(view_poses(num_views, elevation=elevation, azimuth=azimuth))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        return {"camera": self.camera, "caption": self.prompts[index]}


def captions_of(batch: Mapping[str, Any]) -> list[str]:
    """The captions of a batch, object after object; those of groups come from `default_collate` turned over."""
    captions = batch["caption"]
    return list(captions) if isinstance(captions[0], str) else [text for group in zip(*captions, strict=True)
                                                                for text in group]  # fmt: skip
