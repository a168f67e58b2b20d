"""Toybox objects from random poses, as `python -m data_tools.toybox free=DIR` writes them: images and cameras.

<root>/index.json                the splits' uids, and the hash of their content
<root>/<split>/<uid>/images/     000.png ..., as in every view set
<root>/<split>.cameras.npy       azimuth, elevation (radians) and distance, float32 [objects, views, 3]
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.data.toybox import read_index
from core.errors import BadData
from core.images import read_image, training_image


class FreeViews:
    """The objects of a split.

    Args:
        root: the folder that data_tools.toybox wrote.
        split: train, val or test.

    Attributes:
        uids: the objects' names.
        angles: azimuth, elevation (radians) and distance of each camera [objects, views, 3].
        sha256: hash of the whole folder's content.
    """

    def __init__(self, *, root: str | Path, split: str) -> None:
        self.folder = Path(root) / split
        again = f"run data_tools.toybox with free={root}"
        if not (Path(root) / "index.json").is_file():
            raise BadData(
                f"no toybox in {str(root)!r} with random poses; make it: python -m data_tools.toybox free={root}"
            )
        index = read_index(Path(root))
        if split not in index["splits"]:
            raise BadData(f"{str(root)!r} has no split {split!r}; it has {', '.join(index['splits'])}")
        if "num_views" not in index:
            raise BadData(f"{str(root)!r} holds a toybox with fixed cameras; make one with random poses: free=DIR")
        self.uids: list[str] = index["splits"][split]
        if not self.uids:
            raise BadData(f"split {split!r} of {str(root)!r} is empty; make it with objects.{split}=50")
        path = Path(root) / f"{split}.cameras.npy"
        try:
            self.angles: Float[Tensor, "objects views 3"] = torch.from_numpy(np.load(path))
        except (OSError, ValueError, EOFError) as error:
            raise BadData(f"{str(path)!r} is unreadable ({error}); {again}") from error
        expected = (len(self.uids), index["num_views"], 3)
        if self.angles.shape != expected or not self.angles.isfinite().all():
            raise BadData(f"{str(path)!r} holds no {expected} finite numbers; {again}")
        self.sha256: str = index["sha256"]

    @property
    def num_views(self) -> int:
        """Of each object."""
        return self.angles.shape[1]

    def pixels(self, number: int, views: list[int]) -> Float[Tensor, "views 3 height width"]:
        """Some of an object's views, on white, in [-1, 1]. BadImage for a damaged file."""
        folder = self.folder / self.uids[number] / "images"
        images = torch.stack([read_image(folder / f"{view:03d}.png") for view in views])
        return training_image(images) * 2 - 1
