"""Validating shards: what is broken in them is found as in folders, and training refuses or drops it."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.packed_views import PackedViews
from core.data.shards import Pack, parse_object
from core.data.table import Entry, write_table
from core.errors import BadConfig, BadData
from core.images import encode_png
from core.views import write_views
from data_tools.pack.make import pack_all
from data_tools.pack.shard import END, _as_member
from data_tools.validate.__main__ import main
from data_tools.validate.report import raise_if_broken, table
from tests.data_tools.validating import checked, views

NAMES = ("train/a", "train/b", "train/c", "test/d")
Change = Callable[[dict, dict[str, bytes]], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Four objects with two parts of 16 views, in three shards: test/d; train/a and train/b; train/c."""
    folder = tmp_path_factory.mktemp("packed")
    for seed, name in enumerate(NAMES):
        for half, part in enumerate(("target", "input")):
            write_views(folder / "möbel" / name / part, views(10 * seed + half, num_views=16))
    settings = {"layout": "views", "mask": None, "objects_per_shard": 2, "workers": 1, "overwrite": False, "seed": 0}
    pack_all({**settings, "root": str(folder / "möbel")}, folder / "packed ü")
    return folder / "packed ü"


@pytest.fixture
def packed(whole, tmp_path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "packed ü"))


def number_of(root: Path, name: str) -> int:
    pack = Pack(root)
    return next(number for number in range(len(pack.table)) if pack.table[number].name == name)


def changed(root: Path, name: str, change: Change) -> None:
    """The pack with another content of one object, and an index that agrees with it: as another packer might write."""
    pack = Pack(root)
    entries = []
    for place, shard in enumerate(pack.table.index["shards"]):
        written = b""
        for entry in (pack.table[number] for number in range(len(pack.table))):
            if entry.shard != place:
                continue
            content = pack.bytes_of(entry)
            if entry.name == name:
                note, files = parse_object(content)
                change(note, files)
                members = {"json": json.dumps(note).encode(), **files}
                content = b"".join(_as_member(f"{name}.{ending}", file) for ending, file in members.items())
            entries.append(Entry(entry.name, place, len(written), len(content), zlib.crc32(content)))
            written += content
        (root / shard["file"]).write_bytes(written + END)
        shard |= {"size": len(written + END), "content": len(written)}
    index = {key: value for key, value in pack.table.index.items() if key not in ("version", "items")}
    write_table(root, entries, index)


def flip_a_byte(root: Path, name: str) -> None:
    entry = Pack(root).table[number_of(root, name)]
    path = root / Pack(root).table.index["shards"][entry.shard]["file"]
    content = bytearray(path.read_bytes())
    content[entry.offset + entry.size // 2] ^= 1
    path.write_bytes(content)


def with_matrix(part: str, view: int, times: object) -> Change:
    def change(note: dict, _: dict) -> None:
        frame = note["parts"][part]["transforms"]["frames"][view]
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) * np.array(times)).tolist()

    return change


def renamed(note: dict, _: dict) -> None:
    note["name"] = "train/x"


DAMAGES = {
    "missing frame": (lambda _, files: files.pop("view03.png"), "input", 3, "000001.tar:train/b.view03.png' does not"),
    "no rotation": (with_matrix("target", 2, [[2, 2, 2, 1]]), "target", 2, "is no rotation"),
    "handedness": (with_matrix("input", 5, [[-1, 1, 1, 1]]), "input", 5, "wrong handedness"),
    "NaN": (with_matrix("input", 4, np.nan), "input", 4, "NaN"),
    "corrupt image": (lambda _, files: files.update({"view17.png": b"no picture"}), "target", 1, "broken or no image"),
    "another name": (renamed, "", None, "it calls itself 'train/x'"),
    "members too many": (lambda _, files: files.update({"extra.png": b"x"}), "", None, "no view names: extra.png"),
    "no parts": (lambda note, _: note.pop("parts"), "", None, "holds no json of its parts"),
    "members elsewhere": (lambda _, files: files.update({"/../../x": b"x"}), "", None, "no view names: /../../x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_an_object_is_found_with_its_reason_part_and_view(packed, damage):
    change, part, view, words = DAMAGES[damage]
    changed(packed, "train/b", change)
    report = checked(packed)
    assert (report["layout"], report["objects"], report["num_good"]) == ("packed", 4, 3)
    [finding] = report["findings"]
    assert (finding["object"], finding["part"], finding["view"]) == ("train/b", part, view)
    assert words in finding["reason"]


def opencv_axes(note: dict, _: dict) -> None:
    for view in range(16):
        with_matrix("target", view, [1.0, -1.0, -1.0, 1.0])(note, {})


def blank(_: dict, files: dict[str, bytes]) -> None:
    transparent = encode_png(torch.zeros(4, 16, 16))
    files.update({f"view{view:02d}.png": transparent for view in range(16)})


@pytest.mark.parametrize(
    ("change", "words"),
    [(opencv_axes, r"train/b in .*: target: .*every camera looks away"), (blank, r": input: every view is empty")]
    + [(DAMAGES[name][0], "train/b in ") for name in ("missing frame", "no rotation")],
)
def test_the_look_at_the_start_refuses_what_validate_calls_broken(packed, change, words):
    changed(packed, "train/b", change)
    assert set(checked(packed)["broken"]) == {"train/b"}
    with pytest.raises(BadData, match=f"1 of 3 training objects are broken, the first: .*{words}"):
        PackedViews(root=str(packed))
    left = PackedViews(root=str(packed), max_dropped=0.34).numbers.tolist()
    assert left == [number_of(packed, name) for name in ("train/a", "train/c")]


def test_a_whole_pack_is_good_also_with_several_processes(whole):
    assert checked(whole)["broken"] == {}
    assert checked(whole, workers=2, size=16, num_views=16)["broken"] == {}
    assert checked(whole, num_views=4)["num_good"] == 0


def test_a_flipped_byte_a_cut_shard_and_a_missing_one_are_told_of_the_objects_they_cost(packed):
    flip_a_byte(packed, "train/a")
    second = Pack(packed).table[number_of(packed, "train/b")]
    os.truncate(packed / "000001.tar", second.offset + 700)
    (packed / "000002.tar").unlink()
    broken = checked(packed)["broken"]
    assert set(broken) == {"train/a", "train/b", "train/c"}
    [reason] = broken["train/a"]
    assert "in 000001.tar have another checksum (crc32) than index.json says" in reason
    assert broken["train/b"][0].startswith(f"lost: 000001.tar is cut after {second.offset + 700:,} bytes")
    assert "lost: 000002.tar is missing or empty" in broken["train/c"][0]


def test_a_name_in_two_shards_and_a_shard_that_no_index_knows_are_found(packed):
    pack = Pack(packed)
    entries = [pack.table[number] for number in range(4)]
    entries[3] = entries[3]._replace(name="train/a")
    index = {key: value for key, value in pack.table.index.items() if key not in ("version", "items")}
    write_table(packed, entries, index)
    shutil.copy(packed / "000000.tar", packed / "000009.tar")
    broken = checked(packed)["broken"]
    assert "index.json lists it 2 times, in 000001.tar, 000002.tar" in broken["train/a"]
    assert "it calls itself 'train/c'" in broken["train/a"]
    assert "knows no such shard" in broken["000009.tar"][0]


def test_a_shard_without_its_end_marks_is_told_although_no_object_is_lost(packed):
    os.truncate(packed / "000002.tar", (packed / "000002.tar").stat().st_size - 1000)
    report = checked(packed)
    assert "000002.tar  the shard has" in table(report)
    with pytest.raises(BadData, match="0 broken objects and 1 faults beside them, 4 of 4 good"):
        raise_if_broken(report, packed)
    assert len(PackedViews(root=str(packed))) == 3


def test_objects_in_two_splits_and_twins_of_another_split_are_found(packed):
    _, images = Pack(packed).read(number_of(packed, "train/a"))
    changed(packed, "test/d", lambda _, files: files.update(images))
    assert checked(packed)["broken"] == {"train/a": ["has the same views as 'test/d' of another split"]}
    path = packed / "index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["splits"]["val"] = index["splits"]["test"]
    path.write_text(json.dumps(index), encoding="utf-8")
    assert checked(packed)["broken"]["test/d"][0] == "is in the splits test and val"


def test_the_program_prints_the_table_and_puts_the_report_where_training_finds_it(packed, tmp_path, capsys):
    changed(packed, "train/b", DAMAGES["NaN"][0])
    with pytest.raises(SystemExit) as stop:
        main([f"root={packed}", f"out={tmp_path / 'out'}", "workers=1"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "1 broken objects, 3 of 4 good" in captured.err.splitlines()[-1]
    assert captured.out.splitlines()[0].split() == ["object", "part", "view", "reason"]
    assert captured.out.splitlines()[1].split()[:3] == ["train/b", "input", "4"]
    assert (packed / "validation.json").read_text("utf-8") == (tmp_path / "out/validation.json").read_text("utf-8")
    with pytest.raises(BadData, match=r"1 of 3 training objects are broken, the first: train/b: input, view 4: .*NaN"):
        PackedViews(root=str(packed))
    for _ in range(2):
        assert PackedViews(root=str(packed), max_dropped=0.34).numbers.tolist() == [1, 3]
    assert len(PackedViews(root=str(packed), split="test")) == 1  # another split's broken object is none of its own


def report_on(root: Path) -> None:
    (root / "validation.json").write_text(json.dumps(checked(root)), encoding="utf-8")


def test_a_report_on_another_state_of_the_pack_is_refused(packed, tmp_path):
    report_on(packed)
    assert len(PackedViews(root=str(packed))) == 3
    changed(packed, "train/b", DAMAGES["no rotation"][0])
    with pytest.raises(BadData, match=r"about another pack, or an earlier state of this one; run data_tools.validate"):
        PackedViews(root=str(packed))
    assert len(PackedViews(root=str(packed), report=None, max_dropped=0.34)) == 2  # what the look at the start finds
    (tmp_path / "some.txt").write_text("train/a\ntrain/x\n")
    report = checked(packed, uids=str(tmp_path / "some.txt"))
    assert report["broken"] == {"train/x": ["the pack does not hold it"]}
    (packed / "validation.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(BadData, match="about some objects of the pack only"):
        PackedViews(root=str(packed))


def test_a_report_on_a_shard_that_was_repaired_since_is_refused(packed, whole):
    os.truncate(packed / "000002.tar", 700)
    report_on(packed)
    shutil.copy(whole / "000002.tar", packed / "000002.tar")
    with pytest.raises(BadData, match=r"is out of date: 000002\.tar has 1 files of"):
        PackedViews(root=str(packed))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "index.json").unlink(), "no pack in"),
        (lambda root: os.truncate(root / "index.rows.npy", 100), "unreadable"),
        (lambda root: (root / "index.json").write_text('{"shards": [], "version": 9, "items": 1}'), "of version 9"),
    ],
)
def test_a_pack_without_a_good_index_is_refused(packed, damage, words):
    damage(packed)
    with pytest.raises(BadData, match=words):
        checked(packed)


def test_another_layout_is_refused_of_a_pack(whole):
    with pytest.raises(BadConfig, match="is a pack, which holds view sets; leave layout= out"):
        checked(whole, layout="syncdreamer")
