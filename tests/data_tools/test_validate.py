"""Validating data sets: every fault is found with its reason and place, and training refuses or drops by the report."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.cameras.rigs import rig
from core.config import instantiate
from core.data.dropping import names_hash, usable
from core.errors import BadConfig, BadData, UserError
from core.settings import composed, settings
from core.types import Cameras
from core.views import ViewSet, write_views
from data_tools.layouts._convert import export_all
from data_tools.validate.__main__ import main
from data_tools.validate.report import table, validate
from projects.syncdreamer import train
from projects.syncdreamer.data import OfficialViews

SIZE = 16
SETTINGS = {"layout": "views", "mask": None, "size": None, "num_views": None, "uids": None, "workers": 1, "seed": 0}


def views(seed: int = 0, *, num_views: int = 4, size: int = SIZE, name: str = "syncdreamer") -> ViewSet:
    images = (
        torch.randint(0, 256, (num_views, 4, size, size), generator=torch.Generator().manual_seed(seed)).float() / 255
    )
    return ViewSet(images, rig(name, size=size, num_views=num_views), f"object {seed}")


def checked(root: Path, **changes) -> dict:
    return validate({**SETTINGS, "root": str(root), "out": str(root.parent / "out"), **changes})


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


DAMAGES = {
    "missing frame": (lambda f: (f / "images/001.png").unlink(), 1, "does not exist"),
    "no rotation": (lambda f: edited(f, times([[2, 2, 2, 1]])), 2, "is no rotation"),
    "handedness": (lambda f: edited(f, times([[-1, 1, 1, 1]])), 2, "wrong handedness"),
    "NaN": (lambda f: edited(f, times(np.nan)), 2, "NaN"),
    "wrong size": (other_size, 3, "is 7 x 9 instead of 16 x 16"),
    "corrupt image": (lambda f: (f / "images/000.png").write_bytes(b"no picture"), 0, "is broken or no image"),
    "wrong axes": (lambda f: edited(f, every_pose_in_opencv_axes), None, "every camera looks away"),
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


# ---- training by the report


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """SyncDreamer's layout with four objects, written by our exporter."""
    folder = tmp_path_factory.mktemp("exported")
    for seed, name in enumerate(("a", "b", "c", "stuhl ä")):
        for part in ("target", "input"):
            write_views(folder / "views" / name / part, views(seed, num_views=16))
    cfg = {"layout": "syncdreamer", "source": str(folder / "views"), "part": None, "up": "z", "overwrite": False}
    export_all({**cfg, "seed": 0}, folder / "official")
    return folder / "official"


@pytest.fixture
def official(exported, tmp_path) -> Path:
    """A copy, to be damaged."""
    return shutil.copytree(exported, tmp_path / "official data")


def items(root: Path, **options) -> OfficialViews:
    folders = {"target_dir": str(root / "target"), "input_dir": str(root / "input"), "uids": str(root / "uid_set.pkl")}
    return OfficialViews(**folders, image_size=SIZE, **options)


def names(data: OfficialViews) -> list[str]:
    return [bytes(uid).decode() for uid in data.uids]


def report_on(root: Path) -> str:
    report = checked(root, layout="syncdreamer")
    (root / "validation.json").write_text(json.dumps(report), encoding="utf-8")
    return str(root / "validation.json")


def test_training_refuses_a_set_that_the_report_calls_broken(official):
    (official / "target/b/003.png").write_bytes(b"")
    report = report_on(official)
    with pytest.raises(BadData, match=r"1 of 4 training objects are broken, the first: b: target, view 3: .*0\.25"):
        items(official, report=report)


def test_training_drops_by_the_report_what_it_may_and_counts_and_names_it(official, caplog):
    (official / "target/b/003.png").write_bytes(b"")
    report = report_on(official)
    for _ in range(2):  # the same ones each time, in the list's order
        assert names(items(official, report=report, max_dropped=0.25)) == ["a", "c", "stuhl ä"]
    assert "1 of 4 training objects are broken, the first: b" in caplog.text
    assert "they are left out (data.max_dropped=0.25)" in caplog.text
    assert "left out: b\n" in caplog.text


def test_a_good_report_drops_nothing_and_says_nothing(official, caplog):
    report = report_on(official)
    assert names(items(official, report=report)) == ["a", "b", "c", "stuhl ä"]
    assert caplog.text == ""


def test_an_object_without_its_folder_is_found_without_a_report(official):
    shutil.rmtree(official / "input/c")
    with pytest.raises(BadData, match=r"1 of 4 training objects are broken, the first: c: no folder"):
        items(official)
    assert names(items(official, max_dropped=0.5)) == ["a", "b", "stuhl ä"]


def test_training_without_a_report_says_what_it_did_not_look_at(official, caplog):
    caplog.set_level(logging.INFO)
    (official / "target/b/003.png").write_bytes(b"")
    assert names(items(official)) == ["a", "b", "c", "stuhl ä"]
    assert "data.report=null: only missing folders are looked for" in caplog.text


def test_objects_in_folders_of_folders_are_found(official):
    for part in ("target", "input"):
        (official / part / "more").mkdir()
        (official / part / "b").rename(official / part / "more/b")
    (official / "uid_set.pkl").write_bytes(pickle.dumps(["a", "more/b"]))
    assert names(items(official)) == ["a", "more/b"]


@pytest.mark.parametrize("name", ["../target/a", "/etc", "a/../../b", "a\0"])
def test_a_uid_that_leads_out_of_the_folder_stops_training(official, name):
    (official / "uid_set.pkl").write_bytes(pickle.dumps(["a", name]))
    with pytest.raises(BadData, match=r"lists .*which (leads out of the folder|is no file name)"):
        items(official)


def test_a_report_about_another_list_is_refused(official):
    report = report_on(official)
    (official / "uid_set.pkl").write_bytes(pickle.dumps(["a", "b"]))
    with pytest.raises(BadData, match="about another list of objects"):
        items(official, report=report)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"names_sha256": 1, "broken": [1]}', None])
def test_what_is_no_report_is_refused(official, content):
    path = official / "validation.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="no validation report"):
        items(official, report=str(path))


def test_everything_broken_is_refused_at_any_fraction():
    with pytest.raises(BadData, match="2 of 2"):
        usable(["a", "b"], {"a": "x", "b": "y"}, 0.99)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(BadConfig, match="max_dropped"):
        usable(["a"], {}, fraction)


def test_a_long_list_of_the_dropped_is_cut_and_counted(caplog):
    broken = {f"object {index:02d}": "x" for index in range(60)}
    assert usable([*broken, "good"], broken, 0.99) == [60]
    assert "object 48, object 49 and 10 more" in caplog.text


def test_the_fraction_that_an_error_names_is_enough():
    broken = {str(index): "x" for index in range(7)}
    everything = [str(index) for index in range(1003)]
    with pytest.raises(BadData) as raised:
        usable(everything, broken, 0.001)
    enough = float(str(raised.value).rpartition("=")[2])
    assert len(usable(everything, broken, enough)) == 996


def test_a_hash_of_names_ignores_their_order_only():
    assert names_hash(["a", "b"]) == names_hash(["b", "a"]) != names_hash(["a", "c"])


def test_the_settings_reach_the_training_set(official):
    (official / "target/b/003.png").write_bytes(b"")
    report = report_on(official)
    given = [f"data.train.{key}={official / value}".replace(" ", "\\ ") for key, value in
             (("target_dir", "target"), ("input_dir", "input"), ("uids", "uid_set.pkl"))]  # fmt: skip
    given += [f"data.report={report}".replace(" ", "\\ "), "data.max_dropped=0.3"]
    cfg = settings(train.main.program, composed(train.main.program, given))
    assert names(instantiate(cfg.data.train)) == ["a", "c", "stuhl ä"]
