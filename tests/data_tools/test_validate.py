"""Validating data sets: every fault is found with its reason and place."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.cameras.rigs import rig
from core.data.names import names_hash
from core.errors import UserError
from core.types import Cameras
from core.views import ViewSet, write_views
from data_tools.pack.make import pack_all
from data_tools.validate.__main__ import main
from data_tools.validate.report import table
from tests.data_tools.layouts import exported, imported
from tests.data_tools.validating import SIZE, checked, views


def edited(folder: Path, change) -> None:
    path = folder / "transforms.json"
    transforms = json.loads(path.read_text(encoding="utf-8"))
    change(transforms["frames"])
    path.write_text(json.dumps(transforms), encoding="utf-8")


def times(matrix) -> object:
    def change(frames: list) -> None:
        frames[2]["transform_matrix"] = (np.array(frames[2]["transform_matrix"]) * np.array(matrix)).tolist()

    return change


def every_pose_in_opencv_axes(frames: list) -> None:
    for frame in frames:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * [1.0, -1.0, -1.0, 1.0]).tolist()


def other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((9, 7, 4), np.uint8)).save(folder / "images/003.png")


def blank(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        Image.new("RGBA", (SIZE, SIZE)).save(path)


DAMAGES = {
    "missing frame": (lambda f: (f / "images/001.png").unlink(), 1, "does not exist"),
    "no rotation": (lambda f: edited(f, times([[2, 2, 2, 1]])), 2, "is no rotation"),
    "handedness": (lambda f: edited(f, times([[-1, 1, 1, 1]])), 2, "wrong handedness"),
    "NaN": (lambda f: edited(f, times(np.nan)), 2, "NaN"),
    "wrong size": (other_size, 3, "is 7 x 9 instead of 16 x 16"),
    "corrupt image": (lambda f: (f / "images/000.png").write_bytes(b"no picture"), 0, "is broken or no image"),
    "wrong axes": (lambda f: edited(f, every_pose_in_opencv_axes), None, "every camera looks away"),
    "blank": (blank, None, "every view is empty"),
    "no transforms": (lambda f: (f / "transforms.json").unlink(), None, "no view set"),
    "broken transforms": (lambda f: (f / "transforms.json").write_text("{"), None, "transforms.json is unreadable"),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """One good object, and one with each damage."""
    root = tmp_path / "möbel, neu"
    for seed, name in enumerate(["good one", *DAMAGES]):
        write_views(root / name, views(seed))
        if name in DAMAGES:
            DAMAGES[name][0](root / name)
    return root


def test_every_damage_is_found_with_its_reason_and_view(folder):
    report = checked(folder)
    assert set(report["broken"]) == set(DAMAGES)
    assert (report["objects"], report["num_good"]) == (len(DAMAGES) + 1, 1)
    for name, (_, view, words) in DAMAGES.items():
        found = [finding for finding in report["findings"] if finding["object"] == name]
        assert len(found) == 1, found
        assert found[0]["view"] == view
        assert words in found[0]["reason"]


def failed(out: Path) -> set[str]:
    """What a program's results.jsonl lists as failed."""
    lines = map(json.loads, (out / "results.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["input"] for line in lines if line["status"] == "failed"}


def test_pack_and_the_conversions_refuse_what_validate_calls_broken_and_nothing_else(folder, tmp_path):
    broken = set(checked(folder)["broken"])
    settings = {"root": str(folder), "layout": "views", "mask": None, "objects_per_shard": 3, "workers": 1, "seed": 0}
    with pytest.raises(UserError, match=f"{len(DAMAGES)} of {len(DAMAGES) + 1} objects failed"):
        pack_all({**settings, "overwrite": False}, tmp_path / "packed")
    assert failed(tmp_path / "packed") == broken
    assert checked(tmp_path / "packed")["broken"] == {}
    with pytest.raises(UserError):
        exported("zero123", folder, tmp_path / "exported")
    assert failed(tmp_path / "exported") == broken
    broken = set(checked(folder, layout="nerfstudio")["broken"])
    assert {"wrong axes", "blank"} < broken
    with pytest.raises(UserError):
        imported("nerfstudio", folder, tmp_path / "imported")
    assert failed(tmp_path / "imported") == broken


def test_the_program_prints_a_table_writes_json_and_ends_with_2(folder, tmp_path, capsys):
    out = tmp_path / "checked ü"
    with pytest.raises(SystemExit) as stop:
        main([f"root={folder}", f"out={out}", "workers=1"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert f"{len(DAMAGES)} broken objects, 1 of {len(DAMAGES) + 1} good" in captured.err.splitlines()[-1]
    report = json.loads((out / "validation.json").read_text(encoding="utf-8"))
    lines = captured.out.splitlines()
    assert lines[0].split() == ["object", "view", "reason"]
    assert any(line.split(maxsplit=2)[:2] == ["NaN", "2"] for line in lines)
    assert len(lines) == 2 + len(report["findings"])


def test_a_good_set_ends_with_0(tmp_path, capsys):
    write_views(tmp_path / "set/a", views())
    main([f"root={tmp_path / 'set'}", f"out={tmp_path / 'out'}", "workers=1"])
    assert "1 objects, 1 good" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/validation.json").read_text())["broken"] == {}


def test_several_processes_find_the_same_in_the_same_order(folder):
    for seed in range(20):
        write_views(folder / f"more {seed}", views(seed))
    assert checked(folder, workers=2)["findings"] == checked(folder)["findings"]


def test_all_faults_of_one_object_are_listed(tmp_path):
    write_views(tmp_path / "set/a", views())
    for name in ("no rotation", "missing frame", "wrong size"):
        DAMAGES[name][0](tmp_path / "set/a")
    assert [finding["view"] for finding in checked(tmp_path / "set")["findings"]] == [1, 2, 3]


def test_sizes_and_numbers_of_views_are_as_asked(tmp_path):
    write_views(tmp_path / "set/a", views(0))
    write_views(tmp_path / "set/b", views(1, size=12))
    write_views(tmp_path / "set/c", views(2, num_views=3))
    assert checked(tmp_path / "set")["broken"] == {}
    broken = checked(tmp_path / "set", size=SIZE, num_views=4)["broken"]
    assert broken == {"b": ["the images are 12 x 12 instead of 16 x 16"], "c": ["3 views instead of 4"]}


def test_an_object_that_no_view_shows_is_broken(tmp_path):
    one = views()
    images = one.images * torch.tensor([1.0, 1, 1, 0])[:, None, None]
    write_views(tmp_path / "set/a", ViewSet(images, one.cameras, "a"))
    assert checked(tmp_path / "set")["broken"] == {"a": ["every view is empty (alpha 0 everywhere)"]}


def test_cameras_anywhere_that_look_at_one_point_or_in_parallel_are_good(tmp_path):
    ring = rig("syncdreamer", size=SIZE)
    moved = ring.poses.clone()
    moved[:, :3, 3] += torch.tensor([30.0, -20, 5])
    in_parallel = ring.poses[:1].repeat(16, 1, 1)
    in_parallel[:, 1, 3] = torch.arange(16.0)
    for name, poses in (("moved", moved), ("parallel", in_parallel)):
        cameras = Cameras(poses, ring.intrinsics, SIZE, SIZE)
        write_views(tmp_path / "set" / name, ViewSet(views(num_views=16).images, cameras, name))
    assert checked(tmp_path / "set")["broken"] == {}


def test_overlapping_splits_and_twins_under_other_names_are_found(tmp_path):
    for place, seed in {"train/a": 0, "train/b": 1, "test/b": 2, "test/c": 0, "test/d": 3}.items():
        write_views(tmp_path / "set" / place, ViewSet(views(seed).images, views(seed).cameras, place))
    broken = checked(tmp_path / "set")["broken"]
    assert broken == {
        "train/b": ["is in the splits test and train"],
        "test/b": ["is in the splits test and train"],
        "train/a": ["has the same views as 'test/c' of another split"],
    }


def test_duplicates_and_overlaps_of_an_index_are_found(tmp_path):
    for seed, name in enumerate("abc"):
        write_views(tmp_path / "set" / name, views(seed))
    (tmp_path / "set/index.json").write_text(
        json.dumps({"objects": ["a", "b", "b", "gone"], "splits": {"train": ["a", "b"], "val": ["b", "c"]}})
    )
    broken = checked(tmp_path / "set")["broken"]
    assert broken == {
        "b": ["index.json lists it twice", "is in the splits train and val"],
        "gone": ["no view set in 'gone' (no transforms.json)"],
    }


def test_a_list_of_some_objects_restricts_the_look_to_them(folder):
    chosen = folder.parent / "train.txt"
    chosen.write_text("good one\nmissing frame\ngone\n", encoding="utf-8")
    report = checked(folder, uids=str(chosen))
    assert report["names_sha256"] == names_hash(["good one", "missing frame", "gone"])
    assert list(report["broken"]) == ["missing frame", "gone"]
    assert report["broken"]["gone"] == ["no view set in 'gone' (no transforms.json)"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["root=x", "mask=wite"], "mask=wite: choose one of auto, white"),
        (["root=nowhere"], "no folder 'nowhere'"),
        (["root={empty}"], "holds no objects; this layout wants"),
        (["root=x", "layout=vews"], "choose one of blender_synthetic"),
        (["root=x", "size=0"], "size=0: expected a whole number"),
    ],
)
def test_what_is_no_data_set_is_one_line(arguments, words, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stop:
        main([*(argument.format(empty=tmp_path / "empty") for argument in arguments), f"out={tmp_path / 'out'}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert words in error[0]


def test_a_name_with_a_line_break_is_quoted_in_the_table(tmp_path):
    write_views(tmp_path / "set/a", views())
    (tmp_path / "set/index.json").write_text(json.dumps({"objects": ["a", "b\nc"]}))
    lines = table(checked(tmp_path / "set")).splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(r"'b\nc'  ")


def test_a_long_table_is_cut_and_counted():
    finding = {"object": "a", "part": "", "view": 1, "reason": "bad"}
    report = {"root": "r", "objects": 90, "num_good": 0, "findings": [finding] * 90, "broken": {}}
    lines = table(report).splitlines()
    assert len(lines) == 53
    assert lines[-2] == "... and 40 more"
