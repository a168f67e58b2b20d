"""What a layout is.

Between a layout and a view set stands a `Sheet`: the content of a `transforms.json` (nerfstudio's schema: OpenGL axes,
world z up) about files that lie where the layout has them. Readers only fill sheets; whether the poses are rotations,
the images there, whole and of one size is judged by `core.views` for all of them alike.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.cameras.poses import swap_world_up
from core.data.judging import wrong_content
from core.data.names import unsafe
from core.errors import BadData, BadImage, UserError
from core.files import sha256_file
from core.foreground import foreground_mask
from core.types import Cameras
from core.views import ViewSet, parse_transforms
from data_tools.layouts._files import first_size


@dataclass(frozen=True)
class Sheet:
    """One view set as a layout describes it.

    Args:
        transforms: nerfstudio's schema.
        folder: where its file names begin.
        faults: what the layout lacks beside what `core.views` finds, one line each.
        alpha: whether the layout's images have an alpha that tells the object from the background.
    """

    transforms: Mapping[str, Any]
    folder: Path
    faults: Sequence[str] = ()
    alpha: bool = True


@dataclass(frozen=True)
class Listing:
    """The objects of a data set, in its order, and the lists that name them.

    Args:
        splits: names by list (train, val, test).
        faults: (name, reason) of what is wrong with the lists themselves.
    """

    names: Sequence[str]
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Sequence[tuple[str, str]] = ()

    def only(self, kept: Iterable[str]) -> "Listing":
        """The same lists without the names that are not in `kept`."""
        good = set(kept)
        splits = {split: [name for name in names if name in good] for split, names in self.splits.items()}
        return Listing([name for name in self.names if name in good], splits)


def listing(names: Iterable[str], where: str, splits: Mapping[str, Sequence[str]] | None = None) -> Listing:
    """A listing of names that stand in a list `where`: each once, and none that leads out of the data folder."""
    kept: dict[str, None] = {}
    faults: list[tuple[str, str]] = []
    for name in names:
        if (reason := unsafe(name)) is not None:
            faults.append((name, f"{where} lists {name!r}, {reason}"))
        elif name in kept:
            faults.append((name, f"{where} lists it twice"))
        else:
            kept[name] = None
    return Listing(list(kept), splits or {}, faults)


def nothing_to_finish(out: Path, listing: Listing) -> None:
    """For layouts without lists."""


@dataclass(frozen=True)
class Layout:
    """How one layout is read and written.

    Args:
        find: The objects of a data folder; BadData where it is none.
        read: An object's sheets by part; the part of a layout with one view set per object is "". BadData, or any other
            UserError, where not even a sheet can be made.
        write: Write one object's view sets by part, with a record (JSON values) where `record` says; BadData, BadCamera
            or the like for what the layout cannot hold. Overwrites.
        record: The file of an object that `write` writes last.
        finish: Write the lists.
        parts: The parts that `write` needs; None: any.
        world_is_free: Whether the layout leaves open which way is up.
        places: The folders in which an object's files lie, and no others; None where no training reads the layout.
    """

    find: Callable[[Path], Listing]
    read: Callable[[Path, str], dict[str, Sheet]]
    write: Callable[[Path, str, Mapping[str, ViewSet], dict[str, Any]], None]
    record: Callable[[Path, str], Path]
    finish: Callable[[Path, Listing], None] = nothing_to_finish
    parts: Sequence[str] | None = ("",)
    world_is_free: bool = False
    places: Callable[[Path, str], list[Path]] | None = None


def sheet(
    folder: Path,
    files: Sequence[str],
    poses: Iterable[Any],
    *,
    lens: Mapping[str, float] | Callable[[int, int], Mapping[str, float]],
    name: str,
    faults: Sequence[str] = (),
) -> Sheet:
    """A sheet of views with one lens, as wide and high as the first readable image.

    Args:
        poses: OpenGL camera-to-world, 4x4, for each file; None where there is none (say why in `faults`).
        lens: keys of the schema (`fl_x`, `cx`, `camera_angle_x`, ...), or what makes them from width and height.
    """
    width, height = first_size(folder / file for file in files)
    keys = lens(width, height) if callable(lens) else lens
    identity = np.eye(4).tolist()
    frames = [
        {"file_path": file, "transform_matrix": identity if pose is None else np.asarray(pose).tolist()}
        for file, pose in zip(files, poses, strict=True)
    ]
    return Sheet({"w": width, "h": height, **keys, "name": name, "frames": frames}, folder, faults)


def attempt(make: Callable[[], Sheet], folder: Path) -> Sheet:
    """A sheet, or an empty one with the reason why none can be made: the object's other parts are judged still."""
    try:
        return make()
    except UserError as error:
        return Sheet({}, folder, [str(error)])


def each_pose(keys: Iterable[Any], read: Callable[[Any], np.ndarray]) -> tuple[list[np.ndarray | None], list[str]]:
    """`read(key)` for every view's key, None where it raises BadData, and those views' faults."""
    poses: list[np.ndarray | None] = []
    faults = []
    for index, key in enumerate(keys):
        try:
            poses.append(read(key))
        except BadData as error:
            poses.append(None)
            faults.append(f"view {index}: {error}")
    return poses, faults


def judge(made: Sheet, mask: str | None) -> tuple[ViewSet | None, list[str]]:
    """The view set of a sheet, or None where none can be made of it, and all its faults.

    Those are what the layout lacks, what `core.views` finds, and then what `core.data.judging` finds in a view set that
    can be made: validate, pack and the conversions refuse the same.
    """
    if made.faults and not made.transforms:
        return None, list(made.faults)
    views, faults = parse_transforms(made.transforms, made.folder, mask=mask)
    faults = [*made.faults, *faults]
    if views is not None and (mask is not None or not made.alpha):
        views, more = _masked(views, mask)
        faults += more
    return (None, faults) if faults or views is None else (views, wrong_content(views))


def _masked(views: ViewSet, mask: str | None) -> tuple[ViewSet, list[str]]:
    """Masks for views whose alpha is 1 everywhere, which marks no object; a fault for each where no mask is given."""
    images, faults = list(views.images), []
    for index, image in enumerate(images):
        if (image[3] < 1).any():
            continue
        try:
            if mask is None:
                raise BadImage("its alpha is 1 everywhere and marks no object; pass mask= (auto, white, none)")
            images[index] = torch.cat([image[:3], foreground_mask(image[:3], mask)[0][None]])
        except BadImage as error:
            faults.append(f"view {index}: {error}")
    return replace(views, images=torch.stack(images)), faults


def digest(made: Sheet) -> str:
    """Hash of a sheet and of the images it names: equal ones give equal view sets."""
    text = json.dumps(made.transforms, sort_keys=True, default=str)
    return hashlib.sha256(f"{text} {images_digest(made)}".encode()).hexdigest()


def images_digest(made: Sheet) -> str:
    """Hash of the image files that a sheet names, in its order; a missing one counts as such."""
    hashed = hashlib.sha256()
    for frame in made.transforms.get("frames") or ():
        file = str(frame.get("file_path")) if isinstance(frame, Mapping) else ""
        path = made.folder / file
        path = path if path.suffix else path.with_suffix(".png")  # as core.views reads it
        try:
            hashed.update(sha256_file(path).encode())
        except OSError:  # core.views says why
            hashed.update(b"-")
    return hashed.hexdigest()


def turned(views: ViewSet, up: str, *, back: bool = False) -> ViewSet:
    """The view set in a world whose z is up, where `up` (`z`, `y` or `-y`) was; with `back`, the other way."""
    if up == "z":
        return views
    poses = swap_world_up(views.cameras.poses, y_up_to_z_up=(up == "y") != back)
    cameras = Cameras(poses, views.cameras.intrinsics, views.cameras.width, views.cameras.height)
    return ViewSet(views.images, cameras, views.name, views.caption, views.provenance)
