"""Packing: training reads from the shards what it would have read from the folders, and damage costs what it hit."""

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.data.packed_views import PackedViews
from core.data.shards import Pack, key_of
from core.data.toybox import ToyboxViews
from core.errors import BadData, BadOutput, BadRequest, UserError
from core.training.loader import Items, Plan, train_loader
from core.training.randomness import generator
from data_tools.pack.__main__ import main
from data_tools.pack.make import pack_all
from data_tools.toybox.make import Recipe, make
from data_tools.toybox.official import write_official
from projects.syncdreamer.data import OfficialViews

ROOT = Path(__file__).parents[2]
PLAN = Plan(seed=3, rank=0, world_size=1, batch_size=2, accumulate=1)


@pytest.fixture(scope="module")
def toybox(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toybox"
    list(make(root, Recipe(seed=5, image_size=16, supersample=1), {"train": 5, "val": 2, "test": 1}, num_workers=0))
    return root


@pytest.fixture(scope="module")
def packed(toybox, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "packed"
    assert pack(toybox, out) == {"objects": 8, "shards": 5, "skipped": 0}
    return out


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    """A pack that a test may damage."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))


def pack(root: Path, out: Path, **changes) -> dict:
    settings = {"layout": "views", "mask": None, "objects_per_shard": 2, "workers": 1, "overwrite": False, "seed": 0}
    return pack_all({**settings, "root": str(root), **changes}, out)


def batches(items: Items, *, start: int = 0, stop: int = 6, workers: int = 0) -> list:
    return list(train_loader(items, PLAN, start, stop, workers, 60.0))


def equal(one: object, other: object) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def test_batches_from_shards_equal_those_from_the_folders_bit_for_bit(toybox, packed):
    read = batches(PackedViews(root=str(packed)))
    assert len(read) == 6 and equal(read, batches(ToyboxViews(root=str(toybox), split="train")))
    assert equal(read, batches(PackedViews(root=str(packed)), workers=2))


def test_a_resume_at_any_step_reads_what_would_have_come(packed):
    items = PackedViews(root=str(packed))
    assert equal(batches(items)[4:], batches(pickle.loads(pickle.dumps(items)), start=4))


def test_the_official_layout_packed_gives_the_items_of_the_official_layout(toybox, tmp_path):
    uids = [path.name for path in sorted((toybox / "train").iterdir())][:3]
    list(write_official(toybox, tmp_path / "official", "train", uids, size=24))
    pack(tmp_path / "official", tmp_path / "packed", layout="syncdreamer")
    folders = {f"{part}_dir": str(tmp_path / "official" / part) for part in ("target", "input")}
    official = OfficialViews(**folders, uids=str(tmp_path / "official/uid_set.pkl"), image_size=16)
    items = PackedViews(root=str(tmp_path / "packed"), split=None, image_size=16)
    assert len(items) == len(official) == 3
    for index in range(3):
        one, other = (each.__getitem__(index, generator(1, 2, index)) for each in (items, official))
        assert torch.equal(one["target_pixels"], other["target_pixels"])
        assert torch.equal(one["input_pixels"], other["input_pixels"])
        # One comes from the camera's place, the other is stored.
        torch.testing.assert_close(one["input_elevation"], other["input_elevation"], atol=1e-6, rtol=0)


def test_splits_stay_apart_and_the_names_are_the_objects(packed):
    assert [len(PackedViews(root=str(packed), split=split)) for split in ("train", "val", "test", None)] == [5, 2, 1, 8]
    item = PackedViews(root=str(packed), split="val").__getitem__(1, generator(0, 0))
    assert item["uid"] == "val-00001"
    with pytest.raises(BadData, match="no split 'trian'; it has train, val, test"):
        PackedViews(root=str(packed), split="trian")


def test_any_tar_program_finds_the_views_files_byte_for_byte(toybox, packed):
    with tarfile.open(packed / "000000.tar") as archive:
        members = {info.name: archive.extractfile(info).read() for info in archive}
    assert list(members)[:2] == ["train/train-00000.json", "train/train-00000.view00.png"] and len(members) == 2 * 33
    folder = toybox / "train/train-00000"
    assert members["train/train-00000.view03.png"] == (folder / "input/images/003.png").read_bytes()
    assert members["train/train-00000.view17.png"] == (folder / "target/images/001.png").read_bytes()
    note = json.loads(members["train/train-00000.json"])
    given = json.loads((folder / "input/transforms.json").read_text("utf-8"))
    assert [part["first"] for part in note["parts"].values()] == [0, 16] and note["caption"] == given["caption"]
    poses = [frame["transform_matrix"] for frame in note["parts"]["input"]["transforms"]["frames"]]
    assert poses == [frame["transform_matrix"] for frame in given["frames"]]


def test_webdataset_reads_the_shards_as_one_sample_per_object(toybox, packed):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(packed.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{split}/{split}-{number:05d}" for split, count in
                                                         (("train", 5), ("val", 2), ("test", 1))
                                                         for number in range(count)]  # fmt: skip
    for sample in samples:
        assert len([key for key in sample if key.endswith(".png")]) == 32
        assert json.loads(sample["json"])["name"] == sample["__key__"]
        with Image.open(io.BytesIO(sample["view31.png"])) as image:
            assert (image.mode, image.size) == ("RGBA", (16, 16))


def test_the_shards_are_the_same_for_any_number_of_processes(toybox, packed, tmp_path):
    pack(toybox, tmp_path / "again", workers=2)
    assert shards(tmp_path / "again") == shards(packed)


def test_a_truncated_shard_is_reported_and_the_rest_is_used(toybox, copy, caplog):
    second = Pack(copy).table[3]  # the second object of the second shard
    assert second.name == "train/train-00003"
    cut(copy / "000001.tar", second.offset + 700)
    with pytest.raises(BadData, match=r"1 of 5 training objects are broken.* data.max_lost=0.2"):
        PackedViews(root=str(copy))
    items = PackedViews(root=str(copy), max_lost=0.2)
    assert "shard 000001.tar is truncated" in caplog.text
    read = [items.__getitem__(index, generator(0, index)) for index in range(len(items))]
    assert [item["uid"] for item in read] == ["train-00000", "train-00001", "train-00002", "train-00004"]
    assert equal(read[3], ToyboxViews(root=str(toybox), split="train").__getitem__(4, generator(0, 3)))
    assert len(batches(items)) == 6
    caplog.clear()
    assert len(PackedViews(root=str(copy), split="val")) == 2 and "WARNING" not in caplog.text


def test_a_shard_that_only_lost_its_end_marks_has_lost_nothing(copy, caplog):
    cut(copy / "000001.tar", (copy / "000001.tar").stat().st_size - 1000)
    assert len(PackedViews(root=str(copy))) == 5 and "WARNING" not in caplog.text


def test_a_missing_shard_is_reported_too_and_never_all_may_be_missing(copy, caplog):
    (copy / "000000.tar").unlink()
    assert len(PackedViews(root=str(copy), max_lost=0.5)) == 3
    assert "shard 000000.tar is missing or empty: 2 of 2 objects are lost" in caplog.text
    for path in copy.glob("*.tar"):
        path.unlink()
    with pytest.raises(BadData, match="5 of 5 training objects are broken"):
        PackedViews(root=str(copy), max_lost=0.99)


def flip_a_byte(root: Path, number: int) -> None:
    entry = Pack(root).table[number]
    path = root / Pack(root).table.index["shards"][entry.shard]["file"]
    content = bytearray(path.read_bytes())
    content[entry.offset + entry.size // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_found_at_the_start_and_the_object_dropped_where_it_may_be(copy, caplog):
    flip_a_byte(copy, 2)
    with pytest.raises(BadData, match=r"1 of 5 .*train/train-00002 in .* is damaged.* data.max_dropped=0.2"):
        PackedViews(root=str(copy))
    items = PackedViews(root=str(copy), max_dropped=0.2)
    read = [items.__getitem__(index, generator(0, index))["uid"] for index in range(len(items))]
    assert read == ["train-00000", "train-00001", "train-00003", "train-00004"]
    assert "they are left out (data.max_dropped=0.2)" in caplog.text


def test_a_byte_flipped_later_costs_one_object_which_another_replaces_while_training(copy):
    items = PackedViews(root=str(copy))
    flip_a_byte(copy, 2)
    with pytest.raises(BadData, match=r"train/train-00002 in .*000001.tar' is damaged"):
        items.__getitem__(2, generator(0, 0))
    broken = {index for _, faults in batches(items) for index, _ in faults}
    assert broken == {2}


def test_a_second_run_leaves_what_is_there_and_makes_what_is_missing(toybox, copy, packed):
    before = (copy / "000000.tar").stat().st_mtime_ns
    (copy / "000001.tar").unlink()
    cut(copy / "000002.tar", 100)
    (copy / "index.json").unlink()
    assert pack(toybox, copy) == {"objects": 8, "shards": 5, "skipped": 3}
    assert shards(copy) == shards(packed) and (copy / "000000.tar").stat().st_mtime_ns == before
    assert pack(toybox, copy)["skipped"] == 5


def test_a_tar_of_somebody_else_is_not_replaced(toybox, copy):
    (copy / "000002.json").unlink()
    with pytest.raises(BadRequest, match=r"000002.tar' holds other objects"):
        pack(toybox, copy)


def test_objects_that_changed_are_refused_and_with_overwrite_packed_anew(toybox, tmp_path):
    source = shutil.copytree(toybox / "val", tmp_path / "val")
    pack(source, tmp_path / "out")
    image = source / "val-00000/target/images/000.png"
    Image.new("RGBA", (16, 16), (255, 0, 0, 200)).save(image)
    with pytest.raises(BadRequest, match="overwrite=true"):
        pack(source, tmp_path / "out")
    pack(source, tmp_path / "out", overwrite=True)
    _, files = Pack(tmp_path / "out").read(0)
    assert files["view16.png"] == image.read_bytes()


def test_a_pack_that_failed_leaves_no_shard_no_list_and_no_index(toybox, tmp_path):
    source = Path(shutil.copytree(toybox / "val", tmp_path / "val"))
    for name in ("val-00000", "val-00001"):
        (source / name / "input/images/005.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"no object of .* could be packed"):
        pack(source, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.jsonl"]


def test_a_shard_whose_objects_all_fail_is_not_there_and_the_others_are_read(toybox, tmp_path):
    source = Path(shutil.copytree(toybox / "train", tmp_path / "train"))
    image = source / "train-00001/input/images/005.png"
    content = image.read_bytes()
    image.write_bytes(b"")
    with pytest.raises(UserError, match="1 of 5 objects failed"):
        pack(source, tmp_path / "out", objects_per_shard=1)
    assert list(shards(tmp_path / "out")) == ["000000.tar", "000002.tar", "000003.tar", "000004.tar"]
    assert not (tmp_path / "out/000001.json").exists()
    items = PackedViews(root=str(tmp_path / "out"), split=None)
    read = [items.__getitem__(index, generator(0, index))["uid"] for index in range(len(items))]
    assert read == ["train-00000", "train-00002", "train-00003", "train-00004"]
    image.write_bytes(content)
    assert pack(source, tmp_path / "out", objects_per_shard=1) == {"objects": 5, "shards": 5, "skipped": 4}
    image.write_bytes(b"")  # now that there is a shard, it goes
    with pytest.raises(UserError, match="1 of 5 objects failed"):
        pack(source, tmp_path / "out", objects_per_shard=1, overwrite=True)
    assert "000001.tar" not in shards(tmp_path / "out")


def test_a_pack_that_is_stopped_while_it_changes_has_no_index(toybox, copy, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data_tools.pack.make.write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        pack(toybox, copy, overwrite=True)
    assert not (copy / "index.json").exists()


def test_a_larger_packs_shards_are_not_left_among_a_smaller_ones(toybox, copy):
    with pytest.raises(BadRequest, match=r"000001.tar' is of a larger pack"):
        pack(toybox / "test", copy, objects_per_shard=1)
    pack(toybox, copy, objects_per_shard=9, overwrite=True)
    assert list(shards(copy)) == ["000000.tar", "000001.tar", "000002.tar"]


def test_a_broken_object_is_left_out_and_listed_and_packed_once_it_is_repaired(toybox, tmp_path, capsys):
    source = Path(shutil.copytree(toybox / "val", tmp_path / "my val"))
    image = source / "val-00000/input/images/005.png"
    content = image.read_bytes()
    image.write_bytes(content[:50])
    with pytest.raises(SystemExit) as ended:
        main([f"root={source}", f"out={tmp_path}/out", "workers=1"])
    assert ended.value.code == 2
    assert "1 of 2 objects failed" in capsys.readouterr().err
    assert [each["input"] for each in results(tmp_path / "out") if each["status"] == "failed"] == ["val-00000"]
    assert "input: view 5" in next(each["error"] for each in results(tmp_path / "out") if each["status"] == "failed")
    assert len(PackedViews(root=str(tmp_path / "out"), split=None)) == 1
    image.write_bytes(content)
    assert pack(source, tmp_path / "out", objects_per_shard=256) == {"objects": 2, "shards": 1, "skipped": 0}


@pytest.mark.parametrize("name", ["chair v1.2", "stühle.old", "100%"])
def test_names_with_dots_and_letters_of_any_alphabet_stay_themselves(toybox, tmp_path, name):
    shutil.copytree(toybox / "test/test-00000", tmp_path / "in" / name)
    pack(tmp_path / "in", tmp_path / "out")
    assert Pack(tmp_path / "out").table[0].name == name
    assert PackedViews(root=str(tmp_path / "out"), split=None).__getitem__(0, generator(0, 0))["uid"] == name
    webdataset = pytest.importorskip("webdataset")
    [sample] = webdataset.WebDataset([str(tmp_path / "out/000000.tar")], shardshuffle=False)
    assert sample["__key__"] == key_of(name) and "view31.png" in sample


def test_one_view_set_packs_but_syncdreamer_does_not_train_on_it(toybox, tmp_path):
    pack(toybox / "test/test-00000/target", tmp_path / "out")
    note, files = Pack(tmp_path / "out").read(0)
    assert note["name"] == "target" and len(files) == 16
    with pytest.raises(BadData, match=r"target in .* has views with 16; wanted are target and input with 16 views"):
        PackedViews(root=str(tmp_path / "out"), split=None)


def test_what_cannot_be_packed_or_opened_is_one_line(toybox, tmp_path, copy):
    with pytest.raises(BadOutput, match="is the data set itself"):
        pack(toybox, toybox)
    (tmp_path / "empty/one").mkdir(parents=True)
    (tmp_path / "empty/one/transforms.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"no object of .* could be packed; the first: one: transforms.json lists no views"
    ):
        pack(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(BadData, match="no pack in"):
        PackedViews(root=str(tmp_path))
    cut(copy / "index.rows.npy", 200)
    with pytest.raises(BadData, match=r"index of .* is unreadable"):
        PackedViews(root=str(copy))


@pytest.mark.slow
def test_syncdreamer_trains_from_shards_as_from_the_folders(tmp_path):
    root = tmp_path / "toybox"
    list(make(root, Recipe(), {"train": 3, "val": 1, "test": 0}, num_workers=0))
    pack(root, tmp_path / "packed")
    settings = ["trainer.max_steps=3", "data.batch_size=2", "trainer.log_every=1", "trainer.val_every=null",
                "trainer.save_every=3", "trainer.preview_every=null", "logger.tensorboard=false",
                "trainer.precision=32"]  # fmt: skip
    losses = {}
    for data, folder in (("toybox_views", root), ("packed_views", tmp_path / "packed")):
        out = tmp_path / data
        subprocess.run(
            [sys.executable, "-m", "projects.syncdreamer.train", "+experiment=syncdreamer/toybox", f"data={data}",
             f"data.root={folder}", f"out={out}", *settings],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        with (out / "metrics.csv").open() as file:
            losses[data] = [(row["step"], row["loss"]) for row in csv.DictReader(file)]
    assert len(losses["toybox_views"]) == 3 and losses["toybox_views"] == losses["packed_views"]
