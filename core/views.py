"""View sets: images of one object with their cameras, and the folder that holds one.

On disk: `transforms.json` (nerfstudio's schema; there, and only there, poses have OpenGL axes: x right, y up, z
backward), `images/000.png ...` RGBA, `provenance.json`. World: z up. In memory: OpenCV axes, straight alpha in [0, 1].
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from core.cameras.poses import check_poses, from_opengl, to_opengl
from core.cameras.rigs import rig as rig_cameras
from core.errors import BadCamera, BadImage, BadOutput, BadViewSet
from core.files import atomic_folder, list_inputs
from core.foreground import foreground_mask
from core.images import composite, encode_png, read_image_with_info
from core.types import Cameras

TRANSFORMS, PROVENANCE = "transforms.json", "provenance.json"
Parsed = TypeVar("Parsed")
LENS_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class ViewSet:
    """Images of one object, all of one size, each with its camera."""

    images: Float[Tensor, "num_views 4 height width"]
    cameras: Cameras
    name: str
    caption: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.cameras), 4, self.cameras.height, self.cameras.width)
        if tuple(self.images.shape) != expected:
            raise BadViewSet(f"view set {self.name!r}: images {tuple(self.images.shape)}, cameras for {expected}")

    def __len__(self) -> int:
        return self.images.shape[0]

    def rgb(self, background: float = 1.0) -> Float[Tensor, "num_views 3 height width"]:
        """The views laid over a gray value, white by default."""
        return composite(self.images, background)


def write_views(folder: str | Path, views: ViewSet, *, overwrite: bool = False) -> None:
    """Write a view set, whole or not at all.

    An existing folder is refused; with `overwrite` it is replaced, but only if it holds a view set (or nothing).
    """
    folder = Path(folder)
    if overwrite and folder.exists() and not (folder / TRANSFORMS).exists() and any(folder.iterdir()):
        raise BadOutput(f"{str(folder)!r} holds other things than a view set; choose another folder")
    check_poses(views.cameras.poses, where=f"view set {views.name!r}")
    transforms = _to_transforms(views)
    if not torch.isfinite(views.images).all():
        raise BadViewSet(f"view set {views.name!r}: the images contain NaN or infinity")
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "images").mkdir()
        for frame, image in zip(transforms["frames"], views.images, strict=True):
            (temporary / frame["file_path"]).write_bytes(encode_png(image))
        for name, content in ((TRANSFORMS, transforms), (PROVENANCE, views.provenance)):
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=name == PROVENANCE)
            (temporary / name).write_text(text + "\n", encoding="utf-8", errors="surrogatepass")


def read_views(
    folder: str | Path,
    *,
    rig: str | None = None,
    rig_options: Mapping[str, Any] | None = None,
    mask: str | None = None,
) -> ViewSet:
    """Read a view set; BadViewSet names the first view at fault and counts the rest (`validate_views` lists all).

    Args:
        folder: a view set, or with `rig` plain images that are sorted by name (`*-depth.png` are left out).
        rig: name of the cameras (`core.cameras.rigs`) of such a folder, as in SyncDreamer's rendering folders.
        rig_options: what the rig is called with, such as `elevation_deg`; BadRequest for what it does not read.
        mask: how to find the object in images without alpha, or where it is full everywhere (see `core.foreground`);
            None: images without alpha are refused, and any alpha is taken as it is.
    """
    views, faults = _read(Path(folder), rig, mask, rig_options or {})
    if views is None or faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise BadViewSet(f"view set {str(folder)!r}: {faults[0]}{more}")
    return views


def read_poses(path: str | Path) -> Float[Tensor, "num_views 4 4"]:
    """The poses in a `transforms.json`, or in that of a folder; images and lenses need not be there.

    Raises BadViewSet, which names the first view at fault and counts the rest.
    """
    file = Path(path) / TRANSFORMS if Path(path).is_dir() else Path(path)
    faults: list[str] = []
    poses: list[Tensor | None] = []
    try:
        for index, frame in enumerate(_frames(_json(file))):
            poses.append(_attempt(partial(_pose, frame), index, faults))
    except _Fault as fault:
        faults.append(str(fault))
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise BadViewSet(f"poses {str(path)!r}: {faults[0]}{more}")
    return from_opengl(torch.stack([pose for pose in poses if pose is not None]))


def validate_views(folder: str | Path, *, rig: str | None = None, mask: str | None = None) -> list[str]:
    """Every fault of a view set on disk, one line each; empty when it is good."""
    return _read(Path(folder), rig, mask, {})[1]


def _to_transforms(views: ViewSet) -> dict[str, Any]:
    intrinsics = views.cameras.intrinsics.detach().cpu()
    skew = intrinsics.clone()
    skew[:, [0, 1, 0, 1], [0, 1, 2, 2]] = 0
    if not torch.equal(skew, torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1.0]).view(3, 3).to(skew).expand_as(skew)):
        raise BadCamera(f"view set {views.name!r}: transforms.json cannot hold skewed intrinsics")
    frames = []
    for index, (pose, k) in enumerate(zip(to_opengl(views.cameras.poses.detach().cpu()), intrinsics, strict=True)):
        lens = {"fl_x": k[0, 0].item(), "fl_y": k[1, 1].item(), "cx": k[0, 2].item(), "cy": k[1, 2].item()}
        if not all(math.isfinite(value) for value in lens.values()) or min(lens["fl_x"], lens["fl_y"]) <= 0:
            raise BadCamera(f"view set {views.name!r}: view {index} has the intrinsics {lens}")
        frames.append({"file_path": f"images/{index:03d}.png", **lens, "transform_matrix": pose.tolist()})
    return {
        "camera_model": "PINHOLE",
        "w": views.cameras.width,
        "h": views.cameras.height,
        "name": views.name,
        "caption": views.caption,
        "frames": frames,
    }


def _read(
    folder: Path, rig: str | None, mask: str | None, rig_options: Mapping[str, Any]
) -> tuple[ViewSet | None, list[str]]:
    """The view set, or None, and all faults found."""
    try:
        if not folder.is_dir():
            raise _Fault("no such folder; check the path")
        if rig is not None:
            return _read_rig(folder, rig, mask, rig_options)
        return _read_transforms(folder, mask)
    except _Fault as fault:
        return None, [str(fault)]


class _Fault(Exception):
    """One fault of a folder or of a view; collected, never shown to callers."""


def _read_rig(folder: Path, rig: str, mask: str | None, options: Mapping[str, Any]) -> tuple[ViewSet | None, list[str]]:
    try:
        paths = [path for path in list_inputs(str(folder), (".png",)) if not path.stem.endswith("-depth")]
    except BadImage as error:
        raise _Fault(str(error)) from error
    images, faults = _images(paths, mask)
    if faults:
        return None, faults
    height, width = images[0].shape[1:]
    if height != width:
        raise _Fault(f"view 0 is {width} x {height}; rig {rig!r} has square images")
    cameras = rig_cameras(rig, size=width, **options)
    if len(cameras) != len(images):
        raise _Fault(f"{len(images)} images, but rig {rig!r} has {len(cameras)} views; give one image per view")
    return ViewSet(torch.stack(images), cameras, folder.resolve().name, provenance={"rig": rig}), []


def _read_transforms(folder: Path, mask: str | None) -> tuple[ViewSet | None, list[str]]:
    if not (folder / TRANSFORMS).is_file():
        raise _Fault(f"no {TRANSFORMS}; for a folder of plain images pass rig=, e.g. rig=syncdreamer")
    transforms = _json(folder / TRANSFORMS)
    provenance = _json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    return parse_transforms(transforms, folder, mask=mask, provenance=provenance)


def parse_transforms(
    transforms: Mapping[str, Any], folder: Path, *, mask: str | None = None, provenance: dict[str, Any] | None = None
) -> tuple[ViewSet | None, list[str]]:
    """The view set that the content of a `transforms.json` describes, or None, and all faults found.

    Args:
        transforms: nerfstudio's schema; importers of other layouts make it from what they find.
        folder: where the paths of its images begin.
        mask: as of `read_views`.
        provenance: the view set's.
    """
    try:
        frames = _frames(transforms)
    except _Fault as fault:
        return None, [str(fault)]

    faults: list[str] = []
    paths: list[Path | None] = []
    poses: list[Tensor | None] = []
    lenses: list[Tensor | None] = []
    for index, frame in enumerate(frames):
        if isinstance(frame, Mapping):
            paths.append(_attempt(partial(_path, frame, folder), index, faults))
            poses.append(_attempt(partial(_pose, frame), index, faults))
            lenses.append(_attempt(partial(_lens, {**transforms, **frame}), index, faults))
        else:
            paths.append(None)
            faults.append(f"view {index}: is not an object")
    faults += _duplicates(paths)
    images, image_faults = _images(paths, mask, transforms.get("w"), transforms.get("h"))
    faults += image_faults
    if faults:
        return None, sorted(dict.fromkeys(faults), key=_view_order)

    height, width = images[0].shape[1:]
    good_poses, good_lenses = ([value for value in values if value is not None] for values in (poses, lenses))
    cameras = Cameras(from_opengl(torch.stack(good_poses)), torch.stack(good_lenses), width, height)
    name, caption = transforms.get("name") or folder.resolve().name, transforms.get("caption")
    caption = None if caption is None else str(caption)
    return ViewSet(torch.stack(images), cameras, str(name), caption, provenance or {}), []


def _frames(transforms: Mapping[str, Any]) -> list[Any]:
    frames = transforms.get("frames")
    if not isinstance(frames, list) or not frames:
        raise _Fault(f"{TRANSFORMS} lists no views (key 'frames')")
    return frames


def _attempt(parse: Callable[[], Parsed], index: int, faults: list[str]) -> Parsed | None:
    try:
        return parse()
    except _Fault as fault:
        faults.append(f"view {index}: {fault}")
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
    except (OSError, ValueError, RecursionError) as error:
        raise _Fault(f"{path.name} is unreadable ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise _Fault(f"{path.name} holds a {type(content).__name__} instead of an object")
    return content


def _path(frame: Mapping[str, Any], folder: Path) -> Path:
    """The image's path; Blender's habit of leaving out `.png` is understood."""
    text = frame.get("file_path")
    if not isinstance(text, str) or not text:
        raise _Fault("key 'file_path' is missing or no text")
    parts = PurePosixPath(text)
    if parts.is_absolute() or ".." in parts.parts or "\0" in text:
        raise _Fault(f"file_path {text!r} leaves the folder; use a path below it")
    path = folder / parts
    return path if parts.suffix else path.with_suffix(".png")


def _numbers(value: Any, what: str) -> Tensor:
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _Fault(f"{what} holds something else than numbers, or rows of unequal length") from error


def _pose(frame: Mapping[str, Any]) -> Tensor:
    if not isinstance(frame, Mapping):
        raise _Fault("is not an object")
    if "transform_matrix" not in frame:
        raise _Fault("key 'transform_matrix' is missing")
    pose = _numbers(frame["transform_matrix"], "transform_matrix")
    if pose.shape != (4, 4):
        raise _Fault(f"transform_matrix is {'x'.join(map(str, pose.shape))} instead of 4x4")
    try:
        check_poses(pose[None], where="")
    except BadCamera as error:
        raise _Fault(str(error).removeprefix(": ").replace(" of view 0", "")) from error
    return pose.float()


def _lens(frame: Mapping[str, Any]) -> Tensor:
    """Intrinsics [3, 3] from a view's keys over the file's: focal lengths or an opening angle, principal point."""
    numbers = {}
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", *LENS_DISTORTION):
        if frame.get(key) is not None:
            value = _numbers(frame[key], key)
            if value.ndim or not torch.isfinite(value):
                raise _Fault(f"{key}={frame[key]!r} is not a finite number")
            numbers[key] = value.item()
    bent = [key for key in LENS_DISTORTION if numbers.get(key, 0.0) != 0.0]
    if bent:
        raise _Fault(f"lens distortion ({', '.join(bent)}) is not supported; undistort the images first")
    if "fl_x" not in numbers and "w" in numbers and 0 < numbers.get("camera_angle_x", 0.0) < math.pi:
        numbers["fl_x"] = 0.5 * numbers["w"] / math.tan(0.5 * numbers["camera_angle_x"])
    if "fl_x" not in numbers:
        angle = numbers.get("camera_angle_x")
        hint = f"camera_angle_x={angle:g} is no angle in radians" if angle else "key 'fl_x' is missing"
        raise _Fault(f"no focal length ({hint})")
    focal = (numbers["fl_x"], numbers.get("fl_y", numbers["fl_x"]))
    if min(focal) <= 0:
        raise _Fault(f"the focal length is {focal[0]:g}, {focal[1]:g}; it must be positive")
    center = []
    for key, side in (("cx", "w"), ("cy", "h")):
        if key not in numbers and side not in numbers:
            raise _Fault(f"key {key!r} is missing")
        center.append(numbers.get(key, numbers.get(side, 0.0) / 2))
    return torch.tensor([[focal[0], 0.0, center[0]], [0.0, focal[1], center[1]], [0.0, 0.0, 1.0]])


def _images(
    paths: list[Path | None] | list[Path], mask: str | None, width: Any = None, height: Any = None
) -> tuple[list[Tensor], list[str]]:
    """All images, RGBA, and the faults of those that are missing, broken, without alpha, or of another size."""
    images, faults = [], []
    size = (width, height) if width and height else None
    for index, path in enumerate(paths):
        if path is None:
            continue
        try:
            image, info = read_image_with_info(path)
            if mask is None and not info.has_alpha:
                raise _Fault(f"{path.name} has no alpha; pass mask= (auto, white, none)")
            # Alpha that is full everywhere marks nothing: most programs write it into every PNG.
            if mask is not None and image[3].min() == 1:
                image = torch.cat([image[:3], foreground_mask(image[:3], mask)[0][None]])
            size = size or (info.width, info.height)
            if (info.width, info.height) != size:
                raise _Fault(f"{path.name} is {info.width} x {info.height} instead of {size[0]} x {size[1]}")
            images.append(image)
        except (BadImage, _Fault) as error:
            faults.append(f"view {index}: {error}")
    return images, faults


def _duplicates(paths: list[Path | None]) -> list[str]:
    first: dict[Path, int] = {}
    faults = []
    for index, path in enumerate(paths):
        if path is not None and first.setdefault(path, index) != index:
            faults.append(f"view {index}: {path.name} is already the image of view {first[path]}")
    return faults


def _view_order(fault: str) -> int:
    number = fault.removeprefix("view ").split(":")[0]
    return int(number) if number.isdigit() else -1
