"""Training by a validation report: refused or dropped, counted, and never by a report that does not fit the data."""

import itertools
import json
import logging
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from core.command_line import parse_flags
from core.config import instantiate
from core.data.dropping import usable
from core.data.names import names_hash
from core.data.reports import spread
from core.errors import BadConfig, BadData, UserError
from core.settings import composed, precheck, settings
from core.views import write_views
from data_tools.layouts._convert import export_all
from data_tools.validate.__main__ import main
from data_tools.validate.report import write_beside
from projects.syncdreamer import train
from projects.syncdreamer.data import OfficialViews
from tests.data_tools.validating import SIZE, checked, views


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


def test_a_good_report_drops_nothing(official, caplog):
    caplog.set_level(logging.INFO)
    report = report_on(official)
    assert names(items(official, report=report)) == ["a", "b", "c", "stuhl ä"]
    assert "what is broken in the data is taken from" in caplog.text and "WARNING" not in caplog.text


def test_a_report_in_the_data_folder_is_found_by_itself(official):
    (official / "target/b/003.png").write_bytes(b"no picture")  # what a look at sizes does not find
    assert names(items(official)) == ["a", "b", "c", "stuhl ä"]
    with pytest.raises(SystemExit):
        main([f"root={official}", "layout=syncdreamer", f"out={official.parent / 'out'}", "workers=1"])
    with pytest.raises(BadData, match=r"1 of 4 training objects are broken, the first: b: target, view 3: .*0\.25"):
        items(official)
    assert names(items(official, max_dropped=0.25)) == ["a", "c", "stuhl ä"]
    assert names(items(official, report=None)) == ["a", "b", "c", "stuhl ä"]


def test_nothing_is_written_into_a_data_folder_where_it_is_not_wanted_or_not_read(official, tmp_path):
    main([f"root={official}", "layout=syncdreamer", f"out={tmp_path / 'out'}", "workers=1", "beside=false"])
    write_views(tmp_path / "set/a", views())
    assert write_beside(checked(tmp_path / "set")) is None
    assert not (official / "validation.json").exists() and not (tmp_path / "set/validation.json").exists()


def test_a_found_report_about_another_list_is_named_and_not_used(official, caplog):
    (official / "target/b/003.png").write_bytes(b"no picture")
    report_on(official)
    (official / "uid_set.pkl").write_bytes(pickle.dumps(["a", "b"]))
    assert names(items(official)) == ["a", "b"]
    assert "is about another list of objects and is not used" in caplog.text


@pytest.mark.parametrize("broken_before", [True, False])
def test_a_report_older_than_the_data_is_refused_and_names_what_changed(official, broken_before):
    image = official / "target/b/003.png"
    content = image.read_bytes()
    image.write_bytes(b"" if broken_before else content)
    report_on(official)
    image.write_bytes(content if broken_before else content[:40])
    with pytest.raises(BadData, match=r"report .* is out of date: b has 35 files of .* bytes, and had 35 of"):
        items(official, max_dropped=0.5)


def test_newer_files_of_the_same_sizes_are_told_and_the_report_is_used(official, caplog):
    report_on(official)
    later = (official / "validation.json").stat().st_mtime_ns + 10**9
    os.utime(official / "input/c/meta.pkl", ns=(later, later))
    assert len(items(official)) == 4
    assert "1 of the 4 objects or shards that it remembers have newer files of the same sizes" in caplog.text


DAMAGES = {
    "a missing picture": (lambda root: (root / "target/b/003.png").unlink(), "target, view 3: 003.png is missing"),
    "an empty picture": (lambda root: (root / "input/b/015.png").write_bytes(b""), "input, view 15: 015.png is empty"),
    "no cameras": (lambda root: (root / "input/b/meta.pkl").unlink(), "input: .*meta.pkl"),
    "broken cameras": (lambda root: (root / "input/b/meta.pkl").write_bytes(b"no pickle"), "input: .*meta.pkl"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_report_what_a_look_at_the_files_tells_is_refused(official, damage):
    DAMAGES[damage][0](official)
    with pytest.raises(BadData, match=rf"1 of 4 training objects are broken, the first: b: {DAMAGES[damage][1]}"):
        items(official)
    for _ in range(2):
        assert names(items(official, max_dropped=0.25)) == ["a", "c", "stuhl ä"]


def test_of_many_objects_a_thousand_evenly_spread_ones_are_looked_at():
    assert spread(3) == [0, 1, 2]
    chosen = spread(1_000_000)
    assert len(chosen) == 1000 and chosen[:2] == [0, 1000] and len({b - a for a, b in itertools.pairwise(chosen)}) == 1


def test_an_object_without_its_folder_is_found_without_a_report(official):
    shutil.rmtree(official / "input/c")
    with pytest.raises(BadData, match=r"1 of 4 training objects are broken, the first: c: no folder"):
        items(official)
    assert names(items(official, max_dropped=0.5)) == ["a", "b", "stuhl ä"]


def test_training_without_a_report_says_that_it_only_had_a_look(official, caplog):
    caplog.set_level(logging.INFO)
    assert names(items(official)) == ["a", "b", "c", "stuhl ä"]
    assert "no validation report: a short look at 4 of 4 objects" in caplog.text


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


def test_a_run_may_be_started_without_the_report_that_is_found():
    flags = parse_flags(["data.train.target_dir=t", "data.train.input_dir=i", "data.train.uids=u", "data.report=null"])
    cfg, _ = precheck(replace(train.main.program, check=None), flags)
    assert cfg.data.train.report is None
