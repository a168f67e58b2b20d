"""What the tests of `data_tools.layouts` share: a small data set in each layout, with poses worked out by hand."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.types import Cameras
from core.views import ViewSet
from data_tools.layouts._convert import export_all, import_all

SIZE = 16
BLENDER_35MM, BLENDER_50MM = 35 / 32, 50 / 36
SETTINGS = {"up": "z", "mask": None, "part": None, "overwrite": False, "seed": 0}

# Three cameras that face the origin, worked out on paper from the specification of each layout: A on +x at distance 1.5
# (its right is +y), B on +y at distance 2 (its right is -x), C above +x: sin 0.6 and cos 0.8 of its elevation, distance
# 2.5, so at (2, 0, 1.5), its right +y, its up (-0.6, 0, 0.8), and the way back to it (0.8, 0, 0.6).
OPENCV = [
    [[0, 0, -1, 1.5], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]],
    [[-1, 0, 0, 0], [0, 0, -1, 2], [0, -1, 0, 0], [0, 0, 0, 1]],
    [[0, 0.6, -0.8, 2], [1, 0, 0, 0], [0, -0.8, -0.6, 1.5], [0, 0, 0, 1]],
]
OPENGL = [
    [[0, 0, 1, 1.5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]],
    [[-1, 0, 0, 0], [0, 0, 1, 2], [0, 1, 0, 0], [0, 0, 0, 1]],
    [[0, -0.6, 0.8, 2], [1, 0, 0, 0], [0, 0.8, 0.6, 1.5], [0, 0, 0, 1]],
]
OPENGL_WORLD_TO_CAMERA = [  # rows: right, up, backward
    [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, -1.5]],
    [[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, -2]],
    [[0, 1, 0, 0], [-0.6, 0, 0.8, 0], [0.8, 0, 0.6, -2.5]],
]
ROOT_HALF = math.sqrt(0.5)
COLMAP_POSES = [  # quaternion (w, x, y, z) and translation, OpenCV world-to-camera
    [0.5, 0.5, 0.5, -0.5, 0, 0, 1.5],
    [0, 0, ROOT_HALF, -ROOT_HALF, 0, 0, 2],
    [math.sqrt(0.1), math.sqrt(0.4), math.sqrt(0.4), -math.sqrt(0.1), 0, 0, 2.5],
]
AZIMUTH_POLAR_DISTANCE = [[0.0, math.pi / 2, 1.5], [math.pi / 2, math.pi / 2, 2.0], [0.0, math.acos(0.6), 2.5]]


def picture(path: Path, seed: int, *, size: int = SIZE, alpha: bool = True, **options) -> np.ndarray:
    """8-bit noise; with alpha, colours also where it is 0."""
    values = np.random.default_rng(seed).integers(0, 256, (size, size, 4 if alpha else 3), dtype=np.uint8)
    if alpha:
        values[: size // 4, :, 3] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return values


def angle(focal: float) -> float:
    return 2 * math.atan(0.5 / focal)


def make_zero123(root: Path) -> None:
    for view, matrix in enumerate(OPENGL_WORLD_TO_CAMERA):
        picture(root / f"chair/{view:03d}.png", view)
        np.save(root / f"chair/{view:03d}.npy", np.array(matrix, dtype=np.float64))
    (root / "valid_paths.json").write_text('["chair"]')


def make_viewfusion_abo(root: Path) -> None:
    for view, matrix in enumerate(OPENGL):
        picture(root / f"chair/{view:03d}.png", view)
        np.save(root / f"chair/{view:03d}.npy", np.array(matrix, dtype=np.float64))


def make_viewfusion_gso(root: Path) -> None:
    angles = {str(view): {"angle": angle} for view, angle in enumerate(AZIMUTH_POLAR_DISTANCE)}
    for view in range(len(angles)):
        picture(root / f"chair/{view:03d}.png", view)
    (root / "chair/angles.json").write_text(json.dumps(angles))


def make_ouroboros(root: Path) -> None:
    locations = []
    for view, matrix in enumerate(OPENGL):
        name = f"render_{view:04d}.webp"
        picture(root / "chair" / name, view, lossless=True, exact=True)
        locations.append({"index": view, "transform_matrix": matrix, "frames": [{"name": name}]})
    (root / "chair/meta.json").write_text(json.dumps({"camera_angle_x": 0.6911112, "locations": locations}))
    (root / "train.txt").write_text("chair\n")


def make_nerfstudio(root: Path) -> None:
    frames = []
    for view, matrix in enumerate(OPENGL):
        picture(root / f"chair/images/{view:03d}.png", view)
        frames.append({"file_path": f"images/{view:03d}.png", "transform_matrix": matrix})
    lens = {"fl_x": 20.5, "fl_y": 21.5, "cx": 7.0, "cy": 8.5, "w": SIZE, "h": SIZE}
    (root / "chair/transforms.json").write_text(json.dumps({**lens, "frames": frames}))


def make_blender_synthetic(root: Path) -> None:
    for split in ("train", "test"):
        frames = []
        for view, matrix in enumerate(OPENGL):
            picture(root / f"chair/{split}/r_{view}.png", view)
            frames.append({"file_path": f"./{split}/r_{view}", "transform_matrix": matrix})
        content = {"camera_angle_x": 0.6911112, "frames": frames}
        (root / f"chair/transforms_{split}.json").write_text(json.dumps(content))


def make_colmap(root: Path) -> None:
    model = root / "chair/sparse/0"
    model.mkdir(parents=True)
    lines = []
    for view, pose in enumerate(COLMAP_POSES):
        picture(root / f"chair/images/{view:03d}.png", view)
        lines += [f"{view + 1} {' '.join(map(str, pose))} 1 {view:03d}.png", ""]
    (model / "cameras.txt").write_text(f"# comment\n1 PINHOLE {SIZE} {SIZE} 20.5 21.5 7.0 8.5\n")
    (model / "images.txt").write_text("# comment\n" + "\n".join(lines) + "\n")
    (model / "points3D.txt").write_text("")


def make_cap3d(root: Path) -> None:
    for view, matrix in enumerate(OPENGL_WORLD_TO_CAMERA):
        picture(root / f"Cap3D_imgs_view{view}/chair_{view}.png", view, alpha=False)
        folder = root / f"Cap3D_imgs_view{view}_CamMatrix"
        folder.mkdir(parents=True)
        np.save(folder / f"chair_{view}.npy", np.array(matrix, dtype=np.float64))


def make_cap3d_objects(root: Path) -> None:
    for view, matrix in enumerate(OPENCV):
        picture(root / f"chair/{view:05d}.png", view)
        right, down, forward, origin = np.array(matrix, dtype=float)[:3].T.tolist()
        lens = {"x_fov": angle(1.5), "y_fov": angle(1.5), "bbox": [[-0.5] * 3, [0.5] * 3]}
        info = lens | {"origin": origin, "x": right, "y": down, "z": forward}
        (root / f"chair/{view:05d}.json").write_text(json.dumps(info))


INPUT_ELEVATIONS = [math.radians(degrees) for degrees in range(-10, 38, 3)]


def make_syncdreamer(root: Path) -> None:
    """K at 256 pixels although the images are smaller, as where official renderings were resized."""
    for part in ("target", "input"):
        for view in range(16):
            picture(root / f"{part}/chair/{view:03d}.png", view)
    azimuths = [2 * math.pi * view / 16 for view in range(16)]
    poses = []
    for a, e in zip(azimuths, INPUT_ELEVATIONS, strict=True):  # the rows of the official camera, written out
        right, forward = [-math.sin(a), math.cos(a), 0], [-math.cos(e) * math.cos(a), -math.cos(e) * math.sin(a)]
        down = [math.sin(e) * math.cos(a), math.sin(e) * math.sin(a), -math.cos(e)]
        poses.append([[*right, 0], [*down, 0], [*forward, -math.sin(e), 1.5]])
    k = np.array([[280, 0, 128], [0, 280, 128], [0, 0, 1]], np.float32)
    floats = [np.array(azimuths, np.float32), np.array(INPUT_ELEVATIONS, np.float32), np.full(16, 1.5)]
    (root / "input/chair/meta.pkl").write_bytes(pickle.dumps([k, *floats, np.array(poses)]))
    (root / "uid_set.pkl").write_bytes(pickle.dumps(["chair"]))


MAKERS: dict[str, Callable[[Path], None]] = {
    name.removeprefix("make_"): value for name, value in list(globals().items()) if name.startswith("make_")
}
# Focal lengths in image sides and the principal point, as each maker's files mean them.
LENSES = {
    "zero123": (BLENDER_35MM, BLENDER_35MM, 0.5, 0.5),
    "viewfusion_abo": (BLENDER_35MM, BLENDER_35MM, 0.5, 0.5),
    "viewfusion_gso": (BLENDER_35MM, BLENDER_35MM, 0.5, 0.5),
    "ouroboros": (1.3888887, 1.3888887, 0.5, 0.5),
    "blender_synthetic": (1.3888887, 1.3888887, 0.5, 0.5),
    "nerfstudio": (20.5 / SIZE, 21.5 / SIZE, 7 / SIZE, 8.5 / SIZE),
    "colmap": (20.5 / SIZE, 21.5 / SIZE, 7 / SIZE, 8.5 / SIZE),
    "cap3d": (BLENDER_50MM, BLENDER_50MM, 0.5, 0.5),
    "cap3d_objects": (1.5, 1.5, 0.5, 0.5),
    "syncdreamer": (BLENDER_35MM, BLENDER_35MM, 0.5, 0.5),
}
PARTS = {"blender_synthetic": "train", "syncdreamer": "input"}


def imported(layout: str, source: Path, out: Path, **settings) -> Path:
    import_all({**SETTINGS, "layout": layout, "source": str(source), **settings}, out)
    return out


def exported(layout: str, source: Path, out: Path, **settings) -> Path:
    export_all({**SETTINGS, "layout": layout, "source": str(source), **settings}, out)
    return out


def mask(layout: str) -> str | None:
    return "none" if layout == "cap3d" else None


def close(a: ViewSet, b: ViewSet) -> None:
    """Cameras within 1e-6 (lenses in image sides), images exactly."""
    assert len(a) == len(b)
    assert torch.equal(a.images, b.images)
    assert_close(a.cameras.poses, b.cameras.poses, atol=1e-6, rtol=0)
    for intrinsics in (a.cameras.intrinsics, b.cameras.intrinsics):
        assert_close(intrinsics / a.cameras.width, b.cameras.intrinsics / b.cameras.width, atol=1e-6, rtol=0)


def ring(focal: float, seed: int, *, num_views: int = 5) -> ViewSet:
    """8-bit noise and cameras all around the origin, upright."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_views, 4, SIZE, SIZE), generator=generator).float() / 255
    poses = rig("zero123", size=SIZE, num_views=num_views, seed=seed).poses
    k = torch.tensor([[focal * SIZE, 0, SIZE / 2], [0, focal * SIZE, SIZE / 2], [0, 0, 1]]).expand(num_views, 3, 3)
    return ViewSet(images, Cameras(poses, k, SIZE, SIZE), f"ring {seed}")
