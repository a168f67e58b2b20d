"""An object's views as a protocol reads them: on its background, of its size, with masks of the object.

Masks are [V, H, W] in [0, 1] beside images [V, 3, H, W] in [0, 1].
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.cameras.rigs import rig
from core.errors import BadImage, BadViewSet
from core.foreground import foreground_mask
from core.images import from_pil, read_image, to_pil
from core.types import Cameras
from core.views import TRANSFORMS, ViewSet, parse_transforms
from projects.benchmark.layout import Layout
from projects.benchmark.protocol import Protocol


@dataclass(frozen=True)
class Pictures:
    """An object's views by number, on the protocol's background, with the object's masks.

    Args:
        cameras: None where the folder holds pictures only.
        images: opaque: they lie on the background already, so no measure may lay them on one again by their masks.
        masks: empty for a picture without alpha in which no object was found.
    """

    name: str
    numbers: Sequence[int]
    images: Float[Tensor, "v 3 h w"]
    masks: Float[Tensor, "v h w"]
    cameras: Cameras | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def chosen(self, places: Sequence[int]) -> "Pictures":
        """Some of the views, by their places here."""
        at = list(places)
        cameras = None if self.cameras is None else self.cameras[at]
        numbers = [self.numbers[place] for place in at]
        return replace(self, numbers=numbers, images=self.images[at], masks=self.masks[at], cameras=cameras)


def needed_cameras(pictures: Pictures) -> Cameras:
    """The cameras; BadViewSet where there are none."""
    if pictures.cameras is None:
        raise BadViewSet(f"{pictures.name}: cameras are needed, so a view set with {TRANSFORMS}")
    return pictures.cameras


def read(layout: Layout, folder: Path, protocol: Protocol, input_view: int | None) -> Pictures:
    """All views of a folder, on the protocol's background and of its size."""
    cameras = None
    if (folder / TRANSFORMS).is_file():
        views = view_set(folder)
        images, cameras = list(views.images), views.cameras
        numbers = list(range(len(images)))
    else:
        files = layout.pictures(folder, input_view)
        if not files:
            raise BadViewSet(f"{str(folder)!r} holds neither {TRANSFORMS} nor pictures {layout.files}")
        numbers, images = list(files), [read_image(path) for path in files.values()]
    if len({image.shape for image in images}) > 1:
        raise BadViewSet(f"{str(folder)!r}: pictures of different sizes")
    rgba = torch.stack(images)
    if cameras is None and layout.rig is not None:
        cameras = rig_of(layout.rig, rgba, folder)
    rgb = on_background(rgba, protocol)
    masks = object_masks(rgba, rgb, protocol.mask)
    if protocol.size is not None and rgb.shape[-2:] != (protocol.size, protocol.size):
        rgb, masks = resized(rgb, masks, protocol, folder)
        cameras = None if cameras is None else cameras.scaled(protocol.size, protocol.size)
    return Pictures(folder.name, numbers, rgb, masks, cameras)


def view_set(folder: Path) -> ViewSet:
    """A view set, but for the record of where it comes from: that one is broken makes its pictures no worse."""
    try:
        content = json.loads((folder / TRANSFORMS).read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadViewSet(f"view set {str(folder)!r}: {TRANSFORMS} is unreadable ({error})") from error
    views, faults = parse_transforms(content if isinstance(content, dict) else {}, folder)
    if views is None or faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise BadViewSet(f"view set {str(folder)!r}: {faults[0]}{more}")
    return views


def rig_of(name: str, rgba: Float[Tensor, "v 4 h w"], folder: Path) -> Cameras:
    """The cameras that the layout gives to plain pictures."""
    cameras = rig(name, size=rgba.shape[-1])
    if rgba.shape[-1] != rgba.shape[-2] or len(cameras) != len(rgba):
        raise BadViewSet(
            f"{str(folder)!r}: {len(rgba)} pictures of {rgba.shape[-1]} x {rgba.shape[-2]}; rig {name} has "
            f"{len(cameras)} square ones"
        )
    return cameras


def on_background(rgba: Float[Tensor, "v 4 h w"], protocol: Protocol) -> Float[Tensor, "v 3 h w"]:
    """RGB on the protocol's background."""
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    if protocol.compositing == "cut":
        return torch.where(alpha == 0, rgb.new_tensor(protocol.background), rgb)
    # Quirk: SSIM in single precision feels the last bits of even areas (1e-4 on a real object), so an opaque picture
    # must come through unchanged; `core.images.composite` has the training's order of operations, which does not.
    return rgb * alpha + protocol.background * (1 - alpha)


def object_masks(rgba: Float[Tensor, "v 4 h w"], rgb: Float[Tensor, "v 3 h w"], mode: str) -> Float[Tensor, "v h w"]:
    """Alpha, or for a picture without a transparent pixel what `mode` finds (nothing: an empty mask)."""
    masks = []
    for image, shown in zip(rgba, rgb, strict=True):
        if (image[3] < 1).any():
            masks.append(image[3])
            continue
        try:
            masks.append(foreground_mask(shown, mode)[0])
        except BadImage:  # nothing there: that is a finding about a prediction, which its measures show
            masks.append(torch.zeros_like(image[3]))
    return torch.stack(masks)


def resized(rgb: Tensor, masks: Tensor, protocol: Protocol, folder: Path) -> tuple[Tensor, Tensor]:
    """At the protocol's size, as it says how."""
    height, width, size = rgb.shape[-2], rgb.shape[-1], protocol.size
    given = f"{str(folder)!r}: {width} x {height} pixels, the protocol wants {size} x {size}"
    if protocol.resize is None:
        raise BadViewSet(given)
    if height != width:
        raise BadViewSet(f"{given}; pictures that are not square would be bent")
    if protocol.resize == "bilinear":
        assert size is not None
        planes = torch.cat([rgb, masks[:, None].expand(-1, 3, -1, -1)])
        images = [from_pil(to_pil(image).resize((size, size), Image.Resampling.BILINEAR)) for image in planes]
        return torch.stack(images[: len(rgb)]), torch.stack(images[len(rgb) :])[:, 0]
    if size is None or width < size:
        raise BadViewSet(f"{given}; nothing is enlarged")
    return F.interpolate(rgb, size, mode="area"), F.interpolate(masks[:, None], size, mode="area")[:, 0]


def refuse_blank(made: Pictures) -> None:
    """BadImage for views of which each is a single colour: nothing was predicted."""
    flat = made.images.flatten(2)
    if (flat.amax(dim=-1) - flat.amin(dim=-1)).max() < 1 / 255:
        raise BadImage(f"every view is of one colour ({flat[0, :, 0].tolist()}): nothing was predicted")
