"""Renderings of objects as the multi-view model learns them: view sets in folders, or in the shards of data_tools.pack.

Shi et al. 2023, appendix: 32 views around each object at one elevation, of which a step reads 4 that stand a quarter
turn apart, the first at random. What is transparent is laid over a random gray, the same for all views of an object.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import check_poses, from_opengl, spherical
from core.config import whole
from core.data.shards import Pack, member
from core.errors import BadCamera, BadConfig, BadData
from core.images import composite, decode_image, read_image, resized_pixels
from core.views import TRANSFORMS, read_poses
from projects.mvdream_sds.cameras import condition
from projects.mvdream_sds.captioned import read_captions

EVEN = math.radians(1.0)  # views may stand so far from where an even circle has them


class Renders(ABC):
    """Evenly spaced views of an object on a circle, with their cameras and a caption.

    Args:
        image_size: side to which images are resized.
        captions: a table of captions by object (`captioned.read_captions`); None: those of the view sets.
        num_views: of each object; the views of a circle must be a multiple of it.
        suffix: added to captions that do not hold "3d" (the paper's trigger).
        gray: the range of the background.
    """

    def __init__(
        self,
        *,
        image_size: int,
        captions: str | None = None,
        num_views: int = 4,
        suffix: str = ", 3d asset",
        gray: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        whole("image_size", image_size)
        whole("num_views", num_views)
        if len(gray) != 2 or not 0 <= gray[0] <= gray[1] <= 1:
            raise BadConfig(f"gray={gray}: expected a range within [0, 1]")
        self.image_size, self.num_views, self.suffix, self.gray = image_size, num_views, suffix, gray
        self.captions = read_captions(captions) if captions is not None else None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def circle(
        self, index: int, generator: torch.Generator
    ) -> tuple[str, str | None, Float[Tensor, "views 4 4"], Callable[[int], Tensor]]:
        """An object's name and caption, the poses of one of its circles, and how to read a view of it."""

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [v, 3, H, W] in [-1, 1], `camera` [v, 16] and `caption`. BadData for an object that is no such."""
        name, caption, poses, read = self.circle(index, generator)
        chosen = self._choose(poses, name, generator)
        low, high = self.gray
        gray = low + (high - low) * float(torch.rand((), generator=generator))
        return {
            "pixels": torch.stack([self._pixels(read(view), gray) for view in chosen]),
            "camera": condition(poses[chosen]),
            "caption": self._caption(name, caption),
        }

    def _choose(self, poses: Float[Tensor, "views 4 4"], name: str, generator: torch.Generator) -> list[int]:
        """Views that stand evenly around the object, in the order of their azimuths."""
        count = len(poses)
        azimuths = spherical(poses[:, :3, 3])[0] % (2 * math.pi)
        order = azimuths.argsort()
        steps = azimuths[order].diff(append=azimuths[order][:1] + 2 * math.pi)
        if count % self.num_views or (steps - 2 * math.pi / count).abs().max() > EVEN:
            raise BadData(
                f"{name}: its {count} views do not stand evenly around it, or not in a multiple of {self.num_views}; "
                "render them with rig=orbit"
            )
        start = int(torch.randint(count, (), generator=generator))
        stride = count // self.num_views
        return [int(order[(start + view * stride) % count]) for view in range(self.num_views)]

    def _pixels(self, rgba: Float[Tensor, "4 h w"], gray: float) -> Float[Tensor, "3 size size"]:
        image = composite(rgba, gray)
        if image.shape[1] != image.shape[2]:
            raise BadData(f"a view is {image.shape[2]} x {image.shape[1]} pixels; wanted are squares")
        return resized_pixels(image, self.image_size)

    def _caption(self, name: str, own: str | None) -> str:
        caption = own if self.captions is None else self.captions.get(Path(name).name, self.captions.get(name))
        if not caption:
            raise BadData(f"{name} has no caption; give one in captions=TABLE")
        return caption if "3d" in caption.lower() else caption + self.suffix


class FolderRenders(Renders):
    """View sets below a folder: `<root>/<object>/`, or `<root>/<object>/<circle>/` where an object has several.

    The objects are listed once; their files are looked at when they are read.
    """

    def __init__(self, *, root: str, **options) -> None:
        super().__init__(**options)
        folders = [path.parent for path in sorted(Path(root).glob(f"*/{TRANSFORMS}"))]
        circles = [path.parent for path in sorted(Path(root).glob(f"*/*/{TRANSFORMS}"))]
        objects: dict[Path, list[Path]] = {folder: [folder] for folder in folders}
        for folder in circles:
            objects.setdefault(folder.parent, []).append(folder)
        if not objects:
            raise BadData(f"no view sets below {root!r} (<object>/{TRANSFORMS}); render some with data_tools.render")
        self.objects = list(objects.items())

    def __len__(self) -> int:
        return len(self.objects)

    def circle(self, index, generator):
        """As of `Renders`."""
        name, folders = self.objects[index]
        folder = folders[int(torch.randint(len(folders), (), generator=generator))]
        poses = read_poses(folder)
        return str(name), _own_caption(folder), poses, lambda view: read_image(folder / "images" / f"{view:03d}.png")


class PackedRenders(Renders):
    """Objects of a pack; the parts of an object are its circles.

    Args:
        root: a folder made by data_tools.pack.
        split: which of its splits; None: all objects.
        max_lost: the fraction of objects that may be missing with truncated shards; BadData when more are.
    """

    def __init__(self, *, root: str, split: str | None = "train", max_lost: float = 0.0, **options) -> None:
        super().__init__(**options)
        self.pack = Pack(root)
        self.numbers = self.pack.whole(split, max_lost)

    def __len__(self) -> int:
        return len(self.numbers)

    def circle(self, index, generator):
        """As of `Renders`."""
        note, files = self.pack.read(int(self.numbers[index]))
        parts = list(note["parts"].values())
        part = parts[int(torch.randint(len(parts), (), generator=generator))]
        poses = _poses(part["transforms"], note["name"])

        def read(view: int) -> Tensor:
            name = member(part["first"] + view)
            if name not in files:
                raise BadData(f"{note['name']} in {str(self.pack.root)!r} lacks {name}; pack it again")
            return decode_image(files[name], f"{note['name']}, {name}")

        return note["name"], note.get("caption"), poses, read


def _poses(transforms: Mapping[str, Any], name: str) -> Float[Tensor, "views 4 4"]:
    try:
        poses = torch.tensor([frame["transform_matrix"] for frame in transforms["frames"]], dtype=torch.float32)
        check_poses(poses, where=name)
    except (KeyError, TypeError, ValueError, BadCamera) as error:
        raise BadData(f"{name} has poses that cannot be read ({error}); validate the data") from error
    return from_opengl(poses)


def _own_caption(folder: Path) -> str | None:
    try:
        return json.loads((folder / TRANSFORMS).read_text(encoding="utf-8")).get("caption")
    except (OSError, ValueError, AttributeError) as error:
        raise BadData(f"{folder / TRANSFORMS} is unreadable ({error})") from error
