"""Official layouts: each kind of damage is one line about its object, and the rest goes on."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.checkpoints.load import read_legacy_pickle
from core.errors import UserError
from core.views import read_views
from data_tools import export_official, import_official
from data_tools.layouts import official
from tests.data_tools.layouts import (
    MAKERS,
    OPENGL_WORLD_TO_CAMERA,
    SIZE,
    exported,
    imported,
    make_cap3d,
    make_nerfstudio,
    make_syncdreamer,
    mask,
    picture,
)  # fmt: skip


def fails(program, arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        program.main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


@pytest.mark.parametrize("program", [import_official, export_official])
def test_an_unknown_layout_is_refused_with_the_known_ones(program, tmp_path, capsys):
    line = fails(program, ["layout=zero124", "source=x", f"out={tmp_path}"], capsys)
    assert line.startswith("error: layout=zero124")
    assert all(name in line for name in official())


@pytest.mark.parametrize("layout", sorted(MAKERS))
def test_an_empty_source_says_what_the_layout_wants(layout, tmp_path):
    (tmp_path / "leer").mkdir()
    with pytest.raises(UserError, match="leer' holds no objects; this layout wants "):
        imported(layout, tmp_path / "leer", tmp_path / "out")
    with pytest.raises(UserError, match="no folder"):
        imported(layout, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="leer' holds no objects; this layout wants "):
        exported(layout, tmp_path / "leer", tmp_path / "out")


def test_a_malicious_uid_set_runs_nothing(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{tmp_path / 'sentinel'}'",)

    make_syncdreamer(tmp_path / "in")
    for name in ("uid_set.pkl", "input/chair/meta.pkl"):
        good = (tmp_path / "in" / name).read_bytes()
        (tmp_path / "in" / name).write_bytes(pickle.dumps([Evil()]))
        arguments = ["layout=syncdreamer", f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}"]
        assert "nothing of it was run: it asks for posix.system" in fails(import_official, arguments, capsys)
        assert not (tmp_path / "sentinel").exists()
        assert not (tmp_path / "out/chair").exists()
        (tmp_path / "in" / name).write_bytes(good)


def test_a_name_that_leads_out_of_the_folder_or_stands_twice_is_left_out(tmp_path, capsys):
    make_syncdreamer(tmp_path / "in")
    names = ["../chair", "/etc", "a/../../b", "..\\chair", "", "chair\n", "chair"]
    (tmp_path / "in/uid_set.pkl").write_bytes(pickle.dumps(["chair", *names]))
    arguments = ["layout=syncdreamer", f"source={tmp_path / 'in'}", f"out={tmp_path / 'out'}"]
    assert "7 entries of the lists were left out" in fails(import_official, arguments, capsys)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["chair"]
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["failed"] * 7 + ["ok"]


def damage(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "transforms.json"
        transforms = json.loads(path.read_text())
        change(transforms)
        path.write_text(json.dumps(transforms))

    return apply


def pose(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def apply(transforms: dict) -> None:
        frame = transforms["frames"][1]
        frame["transform_matrix"] = np.asarray(change(np.array(frame["transform_matrix"], dtype=float))).tolist()

    return damage(apply)


def in_degrees(path: Path) -> None:
    meta = read_legacy_pickle(path)
    path.write_bytes(pickle.dumps([*meta[:2], np.degrees(meta[2]), *meta[3:]]))


# Every kind of damage, and the words that must stand in the one line about it.
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not json": (lambda folder: (folder / "transforms.json").write_text("{"), "transforms.json is unreadable"),
    "a list": (lambda folder: (folder / "transforms.json").write_text("[]"), "holds a list instead of a dict"),
    "no frames": (damage(lambda t: t.pop("frames")), "lists no views"),
    "empty frames": (damage(lambda t: t.update(frames=[])), "lists no views"),
    "no pose": (damage(lambda t: t["frames"][1].pop("transform_matrix")), "view 1: key 'transform_matrix' is missing"),
    "3x4": (pose(lambda m: m[:3]), "view 1: transform_matrix is 3x4 instead of 4x4"),
    "NaN": (pose(lambda m: m * np.nan), "view 1: the pose contains NaN"),
    "scaled": (pose(lambda m: m * [[2, 2, 2, 1]]), "view 1: the pose is no rotation"),
    "mirrored": (pose(lambda m: m * [[-1, 1, 1, 1]]), "view 1: the pose mirrors space"),
    "no file": (damage(lambda t: t["frames"][1].pop("file_path")), "view 1: key 'file_path' is missing"),
    "missing image": (lambda folder: (folder / "images/001.png").unlink(), "view 1: image"),
    "empty image": (lambda folder: (folder / "images/001.png").write_bytes(b""), "is empty (0 bytes)"),
    "cut image": (
        lambda folder: (folder / "images/001.png").write_bytes((folder / "images/001.png").read_bytes()[:200]),
        "is broken or no image",
    ),
    "other size": (lambda folder: picture(folder / "images/001.png", 0, size=9), "is 9 x 9 instead of 16"),
    "no alpha": (lambda folder: picture(folder / "images/001.png", 0, alpha=False), "has no alpha"),
    "one image twice": (damage(lambda t: t["frames"][1].update(file_path="images/000.png")), "already the image of"),
    "escaping": (damage(lambda t: t["frames"][1].update(file_path="../x.png")), "leaves the folder"),
    "zero focal": (damage(lambda t: t.update(fl_x=0)), "must be positive"),
    "no focal": (damage(lambda t: [t.pop(key) for key in ("fl_x", "fl_y")]), "no focal length"),
    "degrees": (damage(lambda t: t.update(fl_x=None, fl_y=None, camera_angle_x=49.1)), "no angle in radians"),
    "bent lens": (damage(lambda t: t.update(k1=0.1)), "lens distortion (k1)"),
    "fisheye": (damage(lambda t: t.update(camera_model="OPENCV_FISHEYE")), "camera_model OPENCV_FISHEYE"),
    "masks beside": (damage(lambda t: t["frames"][1].update(mask_path="m.png")), "view 1: has a mask_path"),
}


def test_each_damage_fails_one_object_in_one_line_and_the_rest_goes_on(tmp_path, capsys):
    source = tmp_path / "meine Möbel, alle"
    source.mkdir()
    for kind in ["all is well", *DAMAGES]:
        make_nerfstudio(tmp_path / "one")
        (tmp_path / "one/chair").rename(source / kind)
        if kind in DAMAGES:
            DAMAGES[kind][0](source / kind)
    line = fails(import_official, ["layout=nerfstudio", f"source={source}", f"out={tmp_path / 'out ä'}"], capsys)
    assert f"{len(DAMAGES)} of {len(DAMAGES) + 1} inputs failed" in line
    lines = (tmp_path / "out ä/results.jsonl").read_text(encoding="utf-8").splitlines()
    records = {record["input"]: record for record in map(json.loads, lines)}
    for kind, (_, words) in DAMAGES.items():
        assert words in records[kind]["error"], (kind, records[kind])
    assert [path.name for path in (tmp_path / "out ä").iterdir() if path.is_dir()] == ["all is well"]
    assert json.loads((tmp_path / "out ä/index.json").read_text(encoding="utf-8"))["objects"] == ["all is well"]


OTHER_DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "zero123: no matrix": ("zero123", lambda r: (r / "chair/001.npy").unlink(), "view 1: 001.npy is missing"),
    "zero123: 4x4": ("zero123", lambda r: np.save(r / "chair/001.npy", np.eye(4)), "4x4 camera-to-world matrices"),
    "zero123: pickle": (
        "zero123",
        lambda r: np.save(r / "chair/001.npy", np.array([{}], dtype=object), allow_pickle=True),
        "001.npy is no array of numbers",
    ),
    "zero123: mirrored": (
        "zero123",
        lambda r: np.save(r / "chair/001.npy", -np.array(OPENGL_WORLD_TO_CAMERA[1])),
        "view 1: the pose mirrors space",
    ),
    "zero123: no image": ("zero123", lambda r: (r / "chair/001.png").unlink(), "view 1: image"),
    "zero123: no folder": ("zero123", lambda r: shutil.rmtree(r / "chair"), "cannot list"),
    "gso: angles": (
        "viewfusion_gso",
        lambda r: (r / "chair/angles.json").write_text('{"0": {"angle": [0, 90, 1.5]}, "1": {"angle": [0, 1, 1]}}'),
        "polar angle 90",
    ),
    "gso: one missing": (
        "viewfusion_gso",
        lambda r: (r / "chair/angles.json").write_text('{"0": {"angle": [0, 1.5, 1.5]}}'),
        "view 1: angles.json has no",
    ),
    "ouroboros: no locations": (
        "ouroboros",
        lambda r: (r / "chair/meta.json").write_text('{"camera_angle_x": 0.7}'),
        "meta.json lists no views",
    ),
    "ouroboros: no angle": (
        "ouroboros",
        lambda r: (r / "chair/meta.json").write_text(
            (r / "chair/meta.json").read_text().replace("camera_angle_x", "angle")
        ),
        "no focal length",
    ),
    "colmap: bent": (
        "colmap",
        lambda r: (r / "chair/sparse/0/cameras.txt").write_text("1 OPENCV 16 16 20 20 8 8 0.1 0 0 0\n"),
        "lens distortion",
    ),
    "colmap: fisheye": (
        "colmap",
        lambda r: (r / "chair/sparse/0/cameras.txt").write_text("1 OPENCV_FISHEYE 16 16 20 20 8 8 0 0 0 0\n"),
        "camera model OPENCV_FISHEYE is not supported",
    ),
    "colmap: other camera": (
        "colmap",
        lambda r: (r / "chair/sparse/0/cameras.txt").write_text("2 PINHOLE 16 16 20 20 8 8\n"),
        "taken by camera 1",
    ),
    "colmap: words": (
        "colmap",
        lambda r: (r / "chair/sparse/0/images.txt").write_text("one two three\n"),
        "broken or cut off",
    ),
    "colmap: no unit": (
        "colmap",
        lambda r: (r / "chair/sparse/0/images.txt").write_text("1 2 0 0 0 0 0 0 1 000.png\n\n"),
        "view 0: the pose contains NaN",
    ),
    "cap3d: no cameras": ("cap3d", lambda r: shutil.rmtree(r / "Cap3D_imgs_view0_CamMatrix"), "chair_0.npy is missing"),
    "cap3d objects: degrees": (
        "cap3d_objects",
        lambda r: (r / "chair/00001.json").write_text(
            '{"x_fov": 39.6, "x": [1, 0, 0], "y": [0, 1, 0], "z": [0, 0, 1], "origin": [0, 0, 0]}'
        ),
        "view 1: 00001.json: x_fov=39.6 is no angle in radians",
    ),
    "syncdreamer: meta": (
        "syncdreamer",
        lambda r: (r / "input/chair/meta.pkl").write_bytes(pickle.dumps([1, 2])),
        "input, meta.pkl is not",
    ),
    "syncdreamer: degrees": (
        "syncdreamer",
        lambda r: in_degrees(r / "input/chair/meta.pkl"),
        "view 0 stands elsewhere by its pose",
    ),
    "syncdreamer: a target": (
        "syncdreamer",
        lambda r: (r / "target/chair/007.png").unlink(),
        "target, view 7: image",
    ),
    "blender: no list": (
        "blender_synthetic",
        lambda r: (r / "chair/transforms_test.json").write_text("{}"),
        "test, transforms_test.json lists no views",
    ),
}


@pytest.mark.parametrize("kind", OTHER_DAMAGES)
def test_each_damage_of_another_layout_is_one_line(kind, tmp_path):
    layout, apply, words = OTHER_DAMAGES[kind]
    MAKERS[layout](tmp_path / "in")
    apply(tmp_path / "in")
    with pytest.raises(UserError) as raised:
        imported(layout, tmp_path / "in", tmp_path / "out", mask=mask(layout))
    assert words in str(raised.value), raised.value
    assert not (tmp_path / "out/chair").exists()


@pytest.mark.parametrize("layout", ["zero123", "viewfusion_abo", "viewfusion_gso", "cap3d_objects"])
def test_a_gap_in_the_numbers_is_a_missing_view(layout, tmp_path):
    MAKERS[layout](tmp_path / "in")
    for path in (tmp_path / "in/chair").glob("*001.*"):
        path.unlink()
    with pytest.raises(UserError, match="view 1: "):
        imported(layout, tmp_path / "in", tmp_path / "out")


def test_alpha_that_marks_no_object_is_refused_or_replaced_by_the_mask_asked_for(tmp_path):
    """Cap3D's files have an alpha channel that is 1 everywhere."""
    make_cap3d(tmp_path / "in")
    for view in range(3):
        values = np.full((SIZE, SIZE, 4), 255, np.uint8)
        values[4:12, 6:10, :3] = 40 * view
        Image.fromarray(values).save(tmp_path / f"in/Cap3D_imgs_view{view}/chair_{view}.png")
    with pytest.raises(UserError, match=r"view 0: its alpha is 1 everywhere and marks no object; pass mask="):
        imported("cap3d", tmp_path / "in", tmp_path / "out")
    imported("cap3d", tmp_path / "in", tmp_path / "out", mask="white")
    alpha = read_views(tmp_path / "out/chair").images[:, 3]
    assert alpha.sum(dim=(1, 2)).tolist() == [32.0] * 3
    assert (alpha[:, 4:12, 6:10] == 1).all()
