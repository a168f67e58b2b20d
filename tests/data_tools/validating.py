"""What the tests of `data_tools.validate` share: view sets of random pixels, and a report on a folder."""

from pathlib import Path

import torch

from core.cameras.rigs import rig
from core.views import ViewSet
from data_tools.validate.report import validate

SIZE = 16
SETTINGS = {"layout": "views", "mask": None, "size": None, "num_views": None, "uids": None, "workers": 1, "seed": 0}


def views(seed: int = 0, *, num_views: int = 4, size: int = SIZE, name: str = "syncdreamer") -> ViewSet:
    images = (
        torch.randint(0, 256, (num_views, 4, size, size), generator=torch.Generator().manual_seed(seed)).float() / 255
    )
    return ViewSet(images, rig(name, size=size, num_views=num_views), f"object {seed}")


def checked(root: Path, **changes) -> dict:
    return validate({**SETTINGS, "root": str(root), "out": str(root.parent / "out"), **changes})
