"""COLMAP's sparse models, text or binary.

<root>/<name>/images/...                                  the images, whose names stand in the model
<root>/<name>/sparse/0/{cameras,images,points3D}.txt      or .bin; or in sparse/; <root> itself may be such a folder

Poses are world-to-camera quaternions (w, x, y, z) and translations, OpenCV axes, pixel centres at 0.5. The world is
whatever the reconstruction chose: `up=` says which way is up. Only cameras without distortion become view sets. Written
are text models of the given poses with one camera per lens and no points, as COLMAP triangulates from known poses.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy.spatial.transform import Rotation

from core.errors import BadData
from core.files import atomic_folder, natural_key
from core.views import PROVENANCE, ViewSet
from data_tools.layouts._cameras import from_world_to_camera_opengl, to_world_to_camera
from data_tools.layouts._files import folders, nonempty, write_json, write_pngs, write_text
from data_tools.layouts._shared import Layout, Listing, Sheet

# The parameters of each camera model that we can tell from the pinhole one, in the schema's words.
MODELS = {
    "SIMPLE_PINHOLE": ("fl", "cx", "cy"),
    "PINHOLE": ("fl_x", "fl_y", "cx", "cy"),
    "SIMPLE_RADIAL": ("fl", "cx", "cy", "k1"),
    "RADIAL": ("fl", "cx", "cy", "k1", "k2"),
    "OPENCV": ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2"),
}
MODEL_NUMBERS = list(MODELS)  # the binary format counts them in this order


@dataclass(frozen=True)
class Camera:
    """One line of cameras.txt."""

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    def keys(self) -> dict[str, float]:
        """The schema's keys."""
        names = MODELS[self.model]
        if len(names) != len(self.parameters):
            raise BadData(f"a {self.model} camera has {len(self.parameters)} parameters instead of {len(names)}")
        keys = dict(zip(names, self.parameters, strict=True))
        if "fl" in keys:
            keys["fl_x"] = keys["fl_y"] = keys.pop("fl")
        return keys


@dataclass(frozen=True)
class Image:
    """One image of the model."""

    name: str
    quaternion: tuple[float, ...]  # w, x, y, z
    translation: tuple[float, ...]
    camera: int

    def pose(self) -> np.ndarray:
        """OpenGL camera-to-world."""
        w, x, y, z = self.quaternion
        norm = np.linalg.norm(self.quaternion)
        if not np.isfinite([*self.quaternion, *self.translation]).all() or abs(norm - 1) > 1e-3:
            return np.full((4, 4), np.nan)
        rotation = Rotation.from_quat([x, y, z, w]).as_matrix()
        matrix = np.concatenate([rotation, np.array(self.translation)[:, None]], axis=1)
        return from_world_to_camera_opengl(matrix) * [1.0, -1.0, -1.0, 1.0]


def _model(folder: Path) -> Path | None:
    """The folder of a data folder's sparse model."""
    places = (folder / "sparse" / "0", folder / "sparse", folder / "colmap" / "sparse" / "0")
    return next((place for place in places if _suffix(place)), None)


def _suffix(folder: Path) -> str | None:
    return next(
        (s for s in (".bin", ".txt") if all((folder / f"{n}{s}").is_file() for n in ("cameras", "images"))), None
    )


def find(root: Path) -> Listing:
    """The folder itself (its name: `.`), or those below it that hold a sparse model."""
    if _model(root):
        return Listing(["."])
    found = folders(root, lambda folder: _model(folder) is not None) if root.is_dir() else []
    return Listing(nonempty(found, root, "<name>/sparse/0/cameras.txt (or .bin) and <name>/images"))


def read(root: Path, name: str) -> dict[str, Sheet]:
    """One sheet of the registered images, in the order of their names."""
    folder = root / name
    model = _model(folder)
    if model is None:
        raise BadData(f"no sparse model in {name!r} (sparse/0/cameras and images, .txt or .bin)")
    read_cameras, read_images = (_cameras_bin, _images_bin) if _suffix(model) == ".bin" else (_cameras_txt, _images_txt)
    try:
        cameras, images = read_cameras(model), sorted(read_images(model), key=lambda image: natural_key(image.name))
    except (OSError, ValueError, IndexError, OverflowError, struct.error) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"the sparse model in {name!r} is broken or cut off ({error})") from error
    unknown = [image for image in images if image.camera not in cameras]
    if unknown:
        raise BadData(f"image {unknown[0].name!r} was taken by camera {unknown[0].camera}, which the model lacks")
    if not images:
        raise BadData(f"the sparse model in {name!r} holds no images")
    frames = []
    for image in images:
        camera = cameras[image.camera]
        place = {"file_path": f"images/{image.name}", "transform_matrix": image.pose().tolist()}
        frames.append(place | camera.keys())
    first = cameras[images[0].camera]
    odd = [f"view {i}: its camera is {cameras[m.camera].width} x {cameras[m.camera].height} pixels, view 0's is "
           f"{first.width} x {first.height}" for i, m in enumerate(images)
           if (cameras[m.camera].width, cameras[m.camera].height) != (first.width, first.height)]  # fmt: skip
    name = folder.resolve().name
    return {"": Sheet({"w": first.width, "h": first.height, "name": name, "frames": frames}, folder, odd)}


def _camera(model: str, width: int, height: int, parameters: tuple[float, ...]) -> Camera:
    if model not in MODELS:
        raise BadData(f"camera model {model} is not supported; undistort first (colmap image_undistorter)")
    return Camera(model, width, height, parameters)


def _cameras_txt(model: Path) -> dict[int, Camera]:
    cameras = {}
    for line in (model / "cameras.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            number, kind, width, height, *parameters = line.split()
            cameras[int(number)] = _camera(kind, int(width), int(height), tuple(map(float, parameters)))
    return cameras


def _images_txt(model: Path) -> Iterator[Image]:
    """Two lines per image: its pose, and its points, a line which may be empty."""
    lines = iter((model / "images.txt").read_text(encoding="utf-8").splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        _, *numbers, camera, name = line.split(maxsplit=9)
        values = tuple(map(float, numbers))
        yield Image(name.strip(), values[:4], values[4:], int(camera))
        next(lines, None)


def _unpack(file: BinaryIO, form: str) -> tuple:
    """Little-endian numbers from a file."""
    size = struct.calcsize("<" + form)
    return struct.unpack("<" + form, file.read(size))


def _cameras_bin(model: Path) -> dict[int, Camera]:
    cameras = {}
    with (model / "cameras.bin").open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            number, kind, width, height = _unpack(file, "iiQQ")
            known = 0 <= kind < len(MODEL_NUMBERS)
            name = MODEL_NUMBERS[kind] if known else f"number {kind}"
            cameras[number] = _camera(name, width, height, _unpack(file, f"{len(MODELS.get(name, ()))}d"))
    return cameras


def _images_bin(model: Path) -> Iterator[Image]:
    size = (model / "images.bin").stat().st_size
    with (model / "images.bin").open("rb") as file:
        for _ in range(_unpack(file, "Q")[0]):
            _, *values, camera = _unpack(file, "i7di")
            name = b""
            while (letter := file.read(1)) != b"\0":
                if not letter:
                    raise BadData("images.bin is cut off within a name")
                name += letter
            (points,) = _unpack(file, "Q")
            if file.seek(points * struct.calcsize("<ddq"), 1) > size:
                raise BadData("images.bin is cut off within an image's points")
            yield Image(name.decode("utf-8"), tuple(values[:4]), tuple(values[4:]), camera)


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """One folder of images and a text model."""
    views = parts[""]
    lenses: dict[tuple[float, ...], int] = {}
    images = []
    for index, (pose, k) in enumerate(
        zip(views.cameras.poses.double(), views.cameras.intrinsics.double(), strict=True)
    ):
        lens = (k[0, 0].item(), k[1, 1].item(), k[0, 2].item(), k[1, 2].item())
        matrix = to_world_to_camera(pose[None].numpy())[0]
        w_last = Rotation.from_matrix(matrix[:, :3]).as_quat(canonical=True)
        numbers = [*np.roll(w_last, 1).tolist(), *matrix[:, 3].tolist()]
        camera = lenses.setdefault(lens, len(lenses) + 1)
        # the second line, of points, is empty: COLMAP drops an image that lacks it
        images.append(f"{index + 1} {' '.join(map(repr, numbers))} {camera} {index:03d}.png\n\n")
    size = f"{views.cameras.width} {views.cameras.height}"
    cameras = [f"{number} PINHOLE {size} {' '.join(map(repr, lens))}" for lens, number in lenses.items()]
    with atomic_folder(out / name, overwrite=True) as folder:
        (folder / "images").mkdir()
        write_pngs(folder / "images", views)
        model = folder / "sparse" / "0"
        model.mkdir(parents=True)
        write_text(model / "cameras.txt", "\n".join(["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", *cameras]))
        head = "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[] as (X, Y, POINT3D_ID)\n"
        write_text(model / "images.txt", head + "".join(images))
        write_text(model / "points3D.txt", "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)")
        write_json(folder / PROVENANCE, made)


LAYOUT = Layout(find=find, read=read, write=write, record=lambda out, name: out / name / PROVENANCE, world_is_free=True)
