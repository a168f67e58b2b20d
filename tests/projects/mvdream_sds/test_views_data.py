"""Renderings and captioned images as training reads them, and what is said of broken ones."""

import io
import json
import math
import os
import tarfile

import pytest
import torch
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.errors import BadConfig, BadData
from core.images import encode_png, write_image
from core.views import ViewSet, write_views
from data_tools.pack.make import pack_all
from projects.mvdream_sds.cameras import condition
from projects.mvdream_sds.captioned import CaptionedFolder, read_captions, square_pixels
from projects.mvdream_sds.captioned_shards import CaptionedShards
from projects.mvdream_sds.renders import FolderRenders, PackedRenders


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def view_set(folder, num_views=8, caption="a cube"):
    """Views that tell their number by their gray."""
    cameras = rig("orbit", size=16, num_views=num_views)
    gray = (torch.arange(num_views) + 1)[:, None, None, None] / 10
    images = torch.cat([gray.expand(-1, 3, 16, 16), torch.ones(num_views, 1, 16, 16)], dim=1)
    write_views(folder, ViewSet(images, cameras, folder.name, caption))
    return cameras


def test_an_object_is_seen_from_four_sides_in_order_beginning_anywhere(tmp_path):
    cameras = view_set(tmp_path / "cube")
    items, starts = FolderRenders(root=str(tmp_path), image_size=16), set()
    for seed in range(80):
        item = items.__getitem__(0, draw(seed))
        views = (((item["pixels"][:, 0, 0, 0] + 1) / 2 * 10).round().int() - 1).tolist()
        assert views == [(views[0] + 2 * step) % 8 for step in range(4)]
        assert_close(item["camera"], condition(cameras.poses[views]))
        starts.add(views[0])
    assert starts == set(range(8))
    assert item["caption"] == "a cube, 3d asset"


def test_the_background_is_one_random_gray_for_all_views_and_captions_may_come_from_a_table(tmp_path):
    cameras = rig("orbit", size=16, num_views=4)
    write_views(tmp_path / "sets" / "ghost", ViewSet(torch.zeros(4, 4, 16, 16), cameras, "ghost"))
    (tmp_path / "captions.csv").write_text("ghost,a 3D ghost\nother,x\n")
    items = FolderRenders(root=str(tmp_path / "sets"), image_size=8, captions=str(tmp_path / "captions.csv"))
    found = [items.__getitem__(0, draw(seed)) for seed in range(5)]
    assert all(item["pixels"].shape == (4, 3, 8, 8) and item["pixels"].std() < 1e-6 for item in found)
    assert len({item["pixels"][0, 0, 0, 0].item() for item in found}) >= 3
    assert found[0]["caption"] == "a 3D ghost"
    with pytest.raises(BadData, match="ghost has no caption; give one in captions=TABLE"):
        FolderRenders(root=str(tmp_path / "sets"), image_size=8).__getitem__(0, draw())


def test_a_pack_gives_what_the_folders_give(tmp_path):
    for name in ("ball", "cube"):
        view_set(tmp_path / "sets" / name, caption=f"a {name}")
    settings = {"layout": "views", "mask": None, "objects_per_shard": 2, "workers": 1, "overwrite": False, "seed": 0}
    pack_all({**settings, "root": str(tmp_path / "sets")}, tmp_path / "pack")
    folders = FolderRenders(root=str(tmp_path / "sets"), image_size=8)
    packed = PackedRenders(root=str(tmp_path / "pack"), split=None, image_size=8)
    assert len(packed) == len(folders) == 2
    ours, theirs = ({item.pop("caption"): item for item in (items.__getitem__(i, draw(3)) for i in range(2))}
                    for items in (packed, folders))  # fmt: skip
    assert_close(ours, theirs)
    with pytest.raises(BadData, match=r"no split 'train'.*split=null"):
        PackedRenders(root=str(tmp_path / "pack"), image_size=8)


def test_views_that_do_not_stand_evenly_are_refused(tmp_path):
    view_set(tmp_path / "cube", num_views=6)
    with pytest.raises(BadData, match="its 6 views do not stand evenly around it, or not in a multiple of 4"):
        FolderRenders(root=str(tmp_path), image_size=16).__getitem__(0, draw())
    with pytest.raises(BadData, match="no view sets below"):
        FolderRenders(root=str(tmp_path / "cube"), image_size=16)


def test_a_picture_is_cut_to_its_middle_and_laid_on_white():
    wide = torch.zeros(4, 10, 30)
    wide[0, :, 10:20], wide[3, :, 10:20] = 1.0, 1.0
    assert_close(square_pixels(wide, 10), torch.tensor([1.0, -1, -1])[:, None, None].expand(3, 10, 10))
    wide[3] = 0
    assert_close(square_pixels(wide, 5), torch.ones(3, 5, 5))


def test_captions_stand_beside_images_or_in_a_table(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", torch.rand(3, 12, 12))
    (tmp_path / "a.txt").write_text("an apple\n")
    with pytest.raises(BadData, match=r"b.png has no caption: b.txt is missing"):
        CaptionedFolder(root=str(tmp_path), image_size=8)
    (tmp_path / "b.txt").write_text("a bee")
    items = CaptionedFolder(root=str(tmp_path), image_size=8)
    assert [items.__getitem__(i, draw())["caption"] for i in range(2)] == ["an apple", "a bee"]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n{"file_name": "b.png", "text": "y"}')
    assert CaptionedFolder(root=str(tmp_path), image_size=8, captions=str(tmp_path / "metadata.jsonl")).captions == [
        "x",
        "y",
    ]
    (tmp_path / "some.csv").write_text("file_name,text\na.png,x\n")
    with pytest.raises(BadData, match=r"some.csv has none of b.png"):
        CaptionedFolder(root=str(tmp_path), image_size=8, captions=str(tmp_path / "some.csv"))
    with pytest.raises(BadConfig, match=r"captions=some.csv, caption=x: give one of them"):
        CaptionedFolder(root=str(tmp_path), image_size=8, captions="some.csv", caption="x")


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", 'a,"one, two"\nb,three'), ("t.json", '{"a": "one, two", "b": "three"}'),
     ("t.jsonl", '{"uid": "a", "caption": "one, two"}\n\n{"uid": "b", "caption": "three"}'),
     ("h.csv", 'uid,caption\na,"one, two"\nb,three')],
)  # fmt: skip
def test_tables_of_captions_are_read_in_each_form(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_captions(tmp_path / name) == {"a": "one, two", "b": "three"}


def test_a_table_may_begin_with_a_mark_of_its_encoding_and_hold_lines_in_quotes(tmp_path):
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfa,"one\r\ntwo"\r\nb,three\r\n')
    assert read_captions(tmp_path / "t.csv") == {"a": "one\ntwo", "b": "three"}


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv", "a,b,c"), ("t.json", "[1]"), ("t.jsonl", "{}"), ("x.csv", None)]
)
def test_what_is_no_table_of_captions_is_one_line(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadData, match=r"captions=.* cannot be read .*wanted is"):
        read_captions(tmp_path / name)


def shard(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def samples(first, count):
    for number in range(first, first + count):
        yield f"{number:04d}.png", encode_png(torch.full((3, 12, 12), number / 10))
        if number % 2:
            yield f"{number:04d}.json", json.dumps({"caption": f"number {number}"}).encode()
        else:
            yield f"{number:04d}.txt", f"number {number}".encode()


def numbers(items):
    """The captions' numbers, once the images are seen to be theirs."""
    found = [items.__getitem__(index, draw()) for index in range(len(items))]
    named = [int(item["caption"].removeprefix("number ")) for item in found]
    shown = [(item["pixels"].mean().item() + 1) / 2 * 10 for item in found]
    assert all(math.isclose(a, b, abs_tol=0.05) for a, b in zip(named, shown, strict=True))
    return named


def test_other_shards_of_the_same_size_are_listed_anew(tmp_path):
    shard(tmp_path / "000.tar", samples(0, 2))
    assert numbers(CaptionedShards(root=str(tmp_path), image_size=8)) == [0, 1]
    before = (tmp_path / "000.tar").stat()
    shard(tmp_path / "000.tar", reversed(list(samples(0, 2))))  # text before image
    os.utime(tmp_path / "000.tar", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert (tmp_path / "000.tar").stat().st_size == before.st_size
    assert sorted(numbers(CaptionedShards(root=str(tmp_path), image_size=8))) == [0, 1]


def test_shards_are_read_in_any_order_and_a_truncated_one_as_far_as_it_goes(tmp_path):
    shard(tmp_path / "000.tar", samples(0, 3))
    shard(tmp_path / "001.tar", samples(3, 4))
    assert numbers(CaptionedShards(root=str(tmp_path), image_size=8)) == [0, 1, 2, 3, 4, 5, 6]
    assert numbers(CaptionedShards(root=str(tmp_path), image_size=8)) == [
        0,
        1,
        2,
        3,
        4,
        5,
        6,
    ]  # by the list that was kept
    whole = (tmp_path / "001.tar").read_bytes()
    (tmp_path / "001.tar").write_bytes(whole[: 5 * 1024 + 100])
    with pytest.raises(BadData, match=r"1 of 2 .* broken, the first: 001.tar: truncated.*data.max_lost=0.5"):
        CaptionedShards(root=str(tmp_path), image_size=8)
    left = numbers(CaptionedShards(root=str(tmp_path), image_size=8, max_lost=0.5))
    with pytest.raises(BadData, match=r"001\.tar: truncated"):  # by the list that was kept
        CaptionedShards(root=str(tmp_path), image_size=8)
    assert left[:4] == [0, 1, 2, 3] and 4 <= len(left) < 7
