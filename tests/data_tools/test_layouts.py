"""Official layouts: their conventions by poses worked out by hand, and round trips."""

import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.checkpoints.load import read_legacy_pickle
from core.errors import UserError
from core.views import ViewSet, read_views, write_views
from data_tools.layouts import known, official
from tests.data_tools.layouts import (
    BLENDER_35MM,
    COLMAP_POSES,
    INPUT_ELEVATIONS,
    LENSES,
    MAKERS,
    OPENCV,
    PARTS,
    SIZE,
    close,
    exported,
    imported,
    make_colmap,
    make_nerfstudio,
    make_syncdreamer,
    mask,
    ring,
)  # fmt: skip


def test_every_layout_has_a_maker_and_a_lens_here():
    assert set(official()) == set(MAKERS) == set(LENSES)
    assert set(known()) - set(official()) == {"views"}


@pytest.mark.parametrize("layout", sorted(set(MAKERS) - {"syncdreamer"}))
def test_poses_computed_by_hand_arrive_in_opencv_axes_with_z_up(layout, tmp_path):
    MAKERS[layout](tmp_path / "in")
    imported(layout, tmp_path / "in", tmp_path / "out", mask=mask(layout))
    cameras = read_views(tmp_path / "out/chair" / PARTS.get(layout, "")).cameras
    assert_close(cameras.poses, torch.tensor(OPENCV, dtype=torch.float32), atol=1e-6, rtol=0)
    fl_x, fl_y, cx, cy = LENSES[layout]
    expected = torch.tensor([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1 / SIZE]])
    assert_close(cameras.intrinsics / SIZE, expected.expand(3, 3, 3), atol=1e-6, rtol=0)


def test_syncdreamers_inputs_have_their_own_elevations_and_its_targets_the_fixed_ring(tmp_path):
    make_syncdreamer(tmp_path / "in")
    imported("syncdreamer", tmp_path / "in", tmp_path / "out")
    inputs = read_views(tmp_path / "out/chair/input").cameras
    heights = torch.tensor([1.5 * math.sin(e) for e in INPUT_ELEVATIONS])
    assert_close(inputs.centers[:, 2], heights, atol=1e-6, rtol=0)
    assert_close(inputs.intrinsics[0, 0], torch.tensor([280 / 256 * SIZE, 0, SIZE / 2]))
    # View 4 stands a quarter turn on, on +y and 30 degrees high: its right is -x, it looks along -y and down.
    half, root = 0.5, math.sqrt(3) / 2
    view_4 = [[-1, 0, 0, 0], [0, half, -root, 1.5 * root], [0, -root, -half, 1.5 * half], [0, 0, 0, 1]]
    targets = read_views(tmp_path / "out/chair/target").cameras
    assert_close(targets.poses[4], torch.tensor(view_4), atol=1e-6, rtol=0)
    assert json.loads((tmp_path / "out/index.json").read_text())["objects"] == ["chair"]


def numbers_of(path: Path):
    """A file of an official layout as nested lists, numbers and text."""
    if path.suffix == ".npy":
        return np.load(path).tolist()
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".pkl":
        content = read_legacy_pickle(path)
        return [np.asarray(entry).tolist() for entry in content] if isinstance(content[0], np.ndarray) else content
    if path.suffix == ".txt":
        lines = [line.split() for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
        return [[_number(word) for word in words] for words in lines]
    with Image.open(path) as image:
        return np.asarray(image)


def _number(word: str):
    try:
        return float(word)
    except ValueError:
        return word


def same(a, b, where: str) -> None:
    """Equal, numbers within 1e-6; for an angle or a length that is finer than float32 needs."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{index}]")
    elif isinstance(a, np.ndarray):
        assert np.array_equal(a, b), where
    elif isinstance(a, float | int) and not isinstance(a, bool):
        assert abs(a - b) <= 1e-6 * max(1.0, abs(a)), f"{where}: {a} {b}"
    else:
        assert a == b, where


@pytest.mark.parametrize("layout", sorted(MAKERS))
def test_import_then_export_gives_the_files_back(layout, tmp_path):
    MAKERS[layout](tmp_path / "a")
    if layout == "syncdreamer":  # its K is written for the images' size
        meta = read_legacy_pickle(tmp_path / "a/input/chair/meta.pkl")
        meta[0][:2] *= SIZE / 256
        (tmp_path / "a/input/chair/meta.pkl").write_bytes(pickle.dumps(meta))
    imported(layout, tmp_path / "a", tmp_path / "views", mask=mask(layout))
    exported(layout, tmp_path / "views", tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) >= 3
    for file in files:
        a, b = numbers_of(tmp_path / "a" / file), numbers_of(tmp_path / "b" / file)
        if layout == "nerfstudio" and file.name == "transforms.json":  # ours states the lens in every view
            lens = [{k: frame.pop(k) for k in ("fl_x", "fl_y", "cx", "cy")} for frame in b["frames"]]
            assert all(each == lens[0] for each in lens)
            b = {key: value for key, value in (lens[0] | b).items() if key in a}
        same(a, b, str(file))


@pytest.mark.parametrize("layout", sorted(set(MAKERS) - {"syncdreamer"}))
def test_export_then_import_gives_the_view_sets_back(layout, tmp_path):
    sets = {name: ring(LENSES[layout][0], seed) for seed, name in enumerate(("stuhl ä", "two words"))}
    for name, views in sets.items():
        write_views(tmp_path / "views" / name, views)
    exported(layout, tmp_path / "views", tmp_path / "official folder")
    imported(layout, tmp_path / "official folder", tmp_path / "back", mask=mask(layout))
    for name, views in sets.items():
        back = read_views(tmp_path / "back" / name / ("train" if layout == "blender_synthetic" else ""))
        if layout == "cap3d":  # the layout has no alpha: what is seen on white, in 8 bits, is what stays
            seen = (views.rgb() * 255).round() / 255
            views = ViewSet(torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1), views.cameras, views.name)
        close(back, views)


def test_a_syncdreamer_export_comes_back(tmp_path):
    targets = rig("syncdreamer", size=SIZE)
    images = torch.randint(0, 256, (16, 4, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).float() / 255
    inputs = ring(BLENDER_35MM, 3, num_views=16)
    write_views(tmp_path / "views/stuhl ä/target", ViewSet(images, targets, "x"))
    write_views(tmp_path / "views/stuhl ä/input", inputs)
    exported("syncdreamer", tmp_path / "views", tmp_path / "official")
    imported("syncdreamer", tmp_path / "official", tmp_path / "back")
    close(read_views(tmp_path / "back/stuhl ä/target"), ViewSet(images, targets, "x"))
    close(read_views(tmp_path / "back/stuhl ä/input"), inputs)


@pytest.mark.parametrize(
    ("up", "pose", "expected"),
    [
        # y up: the camera stands on +z, unturned; with z up that is -y, and it looks along +y.
        ("y", np.eye(4) + [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.5], [0, 0, 0, 0]], [0, -1.5, 0]),
        # y down, as a reconstruction begins: the camera stands on -z and looks along +z (OpenGL: y and z turned).
        ("-y", np.diag([1.0, -1, -1, 1]) + [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, -1.5], [0, 0, 0, 0]], [0, -1.5, 0]),
    ],
)
def test_a_world_with_another_axis_up_is_turned_and_turned_back(up, pose, expected, tmp_path):
    make_nerfstudio(tmp_path / "in")
    path = tmp_path / "in/chair/transforms.json"
    transforms = json.loads(path.read_text())
    transforms["frames"][0]["transform_matrix"] = np.asarray(pose).tolist()
    path.write_text(json.dumps(transforms))
    imported("nerfstudio", tmp_path / "in", tmp_path / "out", up=up)
    read = read_views(tmp_path / "out/chair").cameras.poses[0]
    looks_along_y = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # right +x, down -z, forward +y
    assert_close(read[:3, :3], looks_along_y, atol=1e-6, rtol=0)
    assert_close(read[:3, 3], torch.tensor(expected), atol=1e-6, rtol=0)
    exported("nerfstudio", tmp_path / "out", tmp_path / "back", up=up)
    again = json.loads((tmp_path / "back/chair/transforms.json").read_text())["frames"][0]["transform_matrix"]
    np.testing.assert_allclose(again, pose, atol=1e-6)


def to_binary(model: Path) -> None:
    """The hand-made text model as COLMAP's binary files, with a point track, whose length must be skipped."""
    cameras = struct.pack("<QiiQQ4d", 1, 1, 1, SIZE, SIZE, 20.5, 21.5, 7.0, 8.5)
    images = struct.pack("<Q", len(COLMAP_POSES))
    for view, pose in enumerate(COLMAP_POSES):
        images += struct.pack("<i7di", view + 1, *pose, 1) + f"{view:03d}.png\0".encode()
        images += struct.pack("<Q", view) + view * struct.pack("<ddq", 1.0, 2.0, -1)
    for name, content in (("cameras", cameras), ("images", images)):
        (model / f"{name}.txt").unlink()
        (model / f"{name}.bin").write_bytes(content)


def test_a_binary_colmap_model_is_read_as_the_text_one(tmp_path):
    make_colmap(tmp_path / "in")
    imported("colmap", tmp_path / "in", tmp_path / "text")
    to_binary(tmp_path / "in/chair/sparse/0")
    imported("colmap", tmp_path / "in", tmp_path / "binary")
    close(read_views(tmp_path / "text/chair"), read_views(tmp_path / "binary/chair"))
    path = tmp_path / "in/chair/sparse/0/images.bin"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"images\.bin is cut off within an image's points"):
        imported("colmap", tmp_path / "in", tmp_path / "cut")
    assert not (tmp_path / "cut/chair").exists()


def test_colmap_itself_reads_what_is_written(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    views = ring(1.2, 0)
    write_views(tmp_path / "views/chair", views)
    exported("colmap", tmp_path / "views", tmp_path / "out")
    model = pycolmap.Reconstruction(tmp_path / "out/chair/sparse/0")
    images = sorted(model.images.values(), key=lambda image: image.name)
    assert [image.name for image in images] == [f"{view:03d}.png" for view in range(len(views))]
    for image, matrix, k in zip(images, views.cameras.world_to_camera, views.cameras.intrinsics, strict=True):
        np.testing.assert_allclose(image.cam_from_world().matrix(), matrix[:3], atol=1e-6)
        np.testing.assert_allclose(image.camera.calibration_matrix(), k, rtol=1e-6)


def test_every_image_of_a_written_colmap_model_has_its_line_of_points(tmp_path):
    """COLMAP silently drops an image without one."""
    write_views(tmp_path / "views/chair", ring(1.2, 0))
    exported("colmap", tmp_path / "views", tmp_path / "out")
    lines = (tmp_path / "out/chair/sparse/0/images.txt").read_text().split("\n")
    images = [line for line in lines if not line.startswith("#")]
    assert [bool(line) for line in images] == [True, False] * 5 + [False]
