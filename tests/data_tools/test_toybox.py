"""The toybox maker: objects are functions of their seed, captions are true, and a stopped run continues."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch.testing import assert_close

from core.cameras.poses import spherical
from core.cameras.rigs import rig
from core.checkpoints.load import read_legacy_pickle
from core.config import instantiate
from core.data.toybox import NUM_VIEWS, ToyboxImages, ToyboxObjects, ToyboxViews, open_pack
from core.errors import BadData, BadOutput
from core.images import training_image
from core.render.raster import render_mesh
from core.settings import composed, settings
from core.views import read_views, validate_views
from data_tools.toybox.__main__ import main
from data_tools.toybox.grammar import sample_object
from data_tools.toybox.make import Recipe, make, sample, write_object
from data_tools.toybox.official import write_official
from data_tools.toybox.parts import COLORS
from data_tools.toybox.primitives import PRIMITIVES
from projects.toybox import train

RECIPE = Recipe(seed=5, image_size=32)
SMALL = Recipe(seed=5, image_size=16, supersample=1)
OBJECTS = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def toybox(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toybox"
    assert list(make(root, RECIPE, OBJECTS, num_workers=0)) == ["train", "train", "val", "test"]
    return root


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")
            if path.is_file()}  # fmt: skip


@pytest.mark.parametrize("kind", PRIMITIVES)
def test_primitives_are_closed_face_outwards_and_fill_their_box(kind):
    half = (0.2, 0.2, 0.3) if kind != "torus" else (0.4, 0.4, 0.1)
    vertices, faces = PRIMITIVES[kind](half)
    solid = trimesh.Trimesh(vertices, faces, process=False)
    solid.merge_vertices(merge_norm=True, merge_tex=True)
    assert solid.is_watertight and solid.volume > 0
    assert_close(torch.from_numpy(np.abs(vertices).max(axis=0)), torch.tensor(half).double(), atol=5e-3, rtol=0)


def test_an_object_is_a_function_of_seed_split_and_number():
    first, again = (sample(RECIPE, "train", 3) for _ in range(2))
    assert first.toy == again.toy and torch.equal(first.inputs.poses, again.inputs.poses)
    captions = {sample(recipe, split, number).toy.caption for recipe in (RECIPE, Recipe(seed=6))
                for split in ("train", "test") for number in range(3)}  # fmt: skip
    assert len(captions) == 12


CAPTIONS = "e86a84056edd8e581f118b5afd89b9a94937f4cfcbb475f56f76c11ac9803026"  # of the first 30


def test_the_objects_are_those_that_the_bundled_weights_learned_from():
    captions = "\n".join(sample(Recipe(), "train", number).toy.caption for number in range(30))
    assert hashlib.sha256(captions.encode()).hexdigest() == CAPTIONS


@pytest.mark.parametrize("number", range(40))
def test_the_caption_names_exactly_the_colours_kinds_and_numbers_of_parts(number):
    toy = sample_object(np.random.default_rng([1, number]))
    words = toy.caption.replace(",", "").split()
    colors = {part.color for part in toy.parts} | {part.front for part in toy.parts if part.front}
    assert set(words) & set(COLORS) == colors
    for part in toy.parts:
        same = [other for other in toy.parts if other.color == part.color]
        count = {1: "", 2: "two", 3: "three", 4: "four"}[len(same)]
        plural = {"box": "boxes"}.get(part.kind, part.kind + "s")
        says_one = f"{part.color} {part.kind}" in toy.caption
        says_many = f"{part.color} {plural}" in toy.caption or f"{part.color} {part.kind} legs" in toy.caption
        assert says_one if len(same) == 1 else (says_many and count in words)


@pytest.mark.parametrize("number", range(0, 40, 4))
def test_objects_have_one_to_five_parts_fill_the_unit_cube_and_differ_between_front_and_back(number):
    toy = sample_object(np.random.default_rng([1, number]))
    mesh = toy.mesh()
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    assert 1 <= len(toy.parts) <= 5
    assert float((high - low).max()) == pytest.approx(1.0, abs=1e-5)
    assert_close(low + high, torch.zeros(3), atol=1e-5, rtol=0)
    views = render_mesh(mesh, rig("syncdreamer", size=32), cull_backfaces=True)
    mirrored = views[8].flip(-1)
    assert ((views[0] - mirrored).abs().amax(0) > 0.15).sum() > 8  # not the picture that a symmetric object would give
    assert (views[:, 3, [0, -1]] == 0).float().mean() > 0.9


def test_a_finished_object_has_two_view_sets_a_caption_and_its_mesh(toybox):
    folder = toybox / "train" / "train-00001"
    made = sample(RECIPE, "train", 1)
    assert validate_views(folder / "target") == [] and validate_views(folder / "input") == []
    target, given = read_views(folder / "target"), read_views(folder / "input")
    assert_close(target.cameras.poses, rig("syncdreamer", size=32).poses, atol=1e-6, rtol=0)
    assert_close(target.cameras.intrinsics, rig("syncdreamer", size=32).intrinsics)
    azimuth, elevation, distance = spherical(given.cameras.centers)
    assert_close(azimuth % (2 * torch.pi), torch.arange(16) * (torch.pi / 8), atol=1e-5, rtol=0)
    assert (elevation > np.radians(-10) - 1e-5).all() and (elevation < np.radians(40) + 1e-5).all()
    assert elevation.unique().numel() == 16
    assert_close(distance, torch.full((16,), 1.5))
    assert target.caption == made.toy.caption == (folder / "caption.txt").read_text(encoding="utf-8").strip()
    mesh = trimesh.load(folder / "mesh.ply", process=False)
    assert_close(torch.tensor(mesh.vertices).float(), made.mesh.vertices)
    assert_close(torch.tensor(mesh.visual.vertex_colors[:, :3] / 255).float(), made.mesh.colors, atol=3e-3, rtol=0)


def test_the_index_lists_the_objects_and_hashes_their_content(toybox, tmp_path):
    index = json.loads((toybox / "index.json").read_text())
    assert index["splits"] == {"train": ["train-00000", "train-00001"], "val": ["val-00000"], "test": ["test-00000"]}
    list(make(tmp_path / "same", RECIPE, OBJECTS, num_workers=2))
    assert json.loads((tmp_path / "same" / "index.json").read_text()) == index
    list(make(tmp_path / "other", Recipe(seed=6, image_size=32), OBJECTS, num_workers=0))
    assert json.loads((tmp_path / "other" / "index.json").read_text())["sha256"] != index["sha256"]


def test_a_second_run_makes_only_what_is_missing(toybox, tmp_path):
    list(make(tmp_path, RECIPE, {"train": 1}, num_workers=0))
    kept = (tmp_path / "train" / "train-00000" / "mesh.ply").stat().st_mtime_ns
    list(make(tmp_path, RECIPE, {"train": 2}, num_workers=0))
    assert (tmp_path / "train" / "train-00000" / "mesh.ply").stat().st_mtime_ns == kept
    assert contents(tmp_path / "train") == contents(toybox / "train")


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_object_under_its_name_and_can_be_continued(tmp_path):
    root = tmp_path / "toybox"
    command = [sys.executable, "-m", "data_tools.toybox", f"out={root}", "image_size=32", "num_workers=0"]
    command += ["objects.train=500", "objects.val=0", "objects.test=0"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 60
    while not list(root.glob("train/train-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = sorted(root.glob("train/train-*"))
    assert finished and len(finished) < 500 and not (root / "index.json").exists()
    for folder in finished:
        assert json.loads((folder / "object.json").read_text())["uid"] == folder.name
        assert validate_views(folder / "target") == []
    count = len(finished) + 1
    list(make(root, Recipe(seed=0, image_size=32), {"train": count}, num_workers=0))
    assert sorted(path.name for path in (root / "train").iterdir()) == [f"train-{i:05d}" for i in range(count)]


def test_half_written_objects_are_made_again(tmp_path, toybox):
    part = tmp_path / "train" / ".train-00000.part"
    part.mkdir(parents=True)
    (part / "rubbish").write_text("left by a killed maker")
    write_object(tmp_path, RECIPE, "train", 0)
    assert not part.exists()
    assert contents(tmp_path / "train" / "train-00000") == contents(toybox / "train" / "train-00000")


def test_a_folder_of_another_recipe_is_refused(toybox):
    with pytest.raises(BadOutput, match="seed"):
        list(make(toybox, Recipe(seed=8, image_size=32), OBJECTS, num_workers=0))
    assert json.loads((toybox / "recipe.json").read_text())["seed"] == RECIPE.seed


IMPOSSIBLE = ["image_size=0", "supersample=0", "num_workers=-1", "official_size=0", "objects.val=-1", "seed=-1"]


def test_a_split_that_does_not_exist_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([f"out={tmp_path / 'toybox'}", "+objects.valid=3"])
    assert "valid" in capsys.readouterr().err and not (tmp_path / "toybox").exists()


@pytest.mark.parametrize("argument", [*IMPOSSIBLE, *(f"{word} --dry-run" for word in IMPOSSIBLE)])
def test_sizes_that_no_picture_has_are_refused_before_anything_is_made(argument, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"out={tmp_path / 'toybox'}", *argument.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"error: {argument.split()[0]}: expected")
    assert not (tmp_path / "toybox").exists()


def test_the_official_layout_is_what_syncdreamers_loader_reads(toybox, tmp_path):
    uids = ["train-00000", "train-00001"]
    assert list(write_official(toybox, tmp_path, "train", uids, size=48)) == uids
    assert read_legacy_pickle(tmp_path / "uid_set.pkl") == uids
    for uid in uids:
        intrinsics, azimuths, elevations, distances, poses = read_legacy_pickle(tmp_path / "input" / uid / "meta.pkl")
        inputs = read_views(toybox / "train" / uid / "input").cameras
        assert_close(torch.as_tensor(intrinsics), inputs.scaled(48, 48).intrinsics[0])
        assert_close(torch.as_tensor(poses).float(), inputs.world_to_camera[:, :3])
        assert_close(torch.as_tensor(azimuths).float(), torch.arange(16) * (torch.pi / 8), atol=1e-5, rtol=0)
        assert torch.as_tensor(elevations).dtype == torch.float32
        assert_close(torch.as_tensor(distances), torch.full((16,), 1.5).double(), atol=1e-5, rtol=0)
        for part in ("input", "target"):
            views = read_views(tmp_path / part / uid, rig="syncdreamer")
            assert views.images.shape == (16, 4, 48, 48)


def test_an_official_layout_of_another_size_or_place_is_refused(toybox, tmp_path):
    uids = ["train-00000"]
    for _ in range(2):
        assert list(write_official(toybox, tmp_path / "official", "train", uids, size=48)) == uids
    with pytest.raises(BadOutput, match="image_size"):
        list(write_official(toybox, tmp_path / "official", "train", uids, size=32))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match="cannot write"):
        list(write_official(toybox, tmp_path / "file" / "official", "train", uids, size=48))


def test_the_program_makes_both_layouts(tmp_path, capsys):
    arguments = ["objects.train=1", "objects.val=0", "objects.test=0", "image_size=16", "num_workers=0"]
    main([f"out={tmp_path / 'toybox'}", f"official={tmp_path / 'official'}", "official_size=16", *arguments])
    assert (tmp_path / "official" / "train" / "uid_set.pkl").is_file()
    assert "1 train, 0 val, 0 test" in " ".join(capsys.readouterr().out.split())


def test_training_items_are_views_in_order_from_a_random_start(toybox):
    items = ToyboxViews(root=str(toybox), split="train")
    target, given = (read_views(toybox / "train" / "train-00001" / part) for part in ("target", "input"))
    starts = set()
    for seed in range(6):
        item = items.__getitem__(1, torch.Generator().manual_seed(seed))
        start = item["start"]
        starts.add(start)
        order = (torch.arange(NUM_VIEWS) + start) % NUM_VIEWS
        assert torch.equal(item["target_pixels"], training_image(target.images[order]) * 2 - 1)
        assert torch.equal(item["input_pixels"], training_image(given.images[start]) * 2 - 1)
        assert_close(item["input_elevation"], spherical(given.cameras.centers[start : start + 1])[1])
        assert item["caption"] == target.caption and item["uid"] == "train-00001"
    assert len(items) == 2 and len(starts) > 2


def test_single_images_and_random_views_come_from_the_same_pack(toybox):
    images, objects = (kind(root=str(toybox), split="train") for kind in (ToyboxImages, ToyboxObjects))
    assert len(images) == 64 and len(objects) == 2
    draw = torch.Generator().manual_seed(0)
    second = [images.__getitem__(i, draw)["pixels"] for i in range(32, 64)]
    item = objects.__getitem__(1, draw)
    assert any(torch.equal(item["pixels"], pixels) for pixels in second)
    assert item["caption"] == images.__getitem__(32, draw)["caption"]


def test_a_pack_of_older_data_is_made_again(tmp_path):
    list(make(tmp_path, RECIPE, {"val": 1}, num_workers=0))
    assert len(open_pack(tmp_path, "val").uids) == 1
    list(make(tmp_path, RECIPE, {"val": 2}, num_workers=0))
    pack = open_pack(tmp_path, "val")
    assert pack.images.shape == (2, 32, 4, 32, 32) and len(pack.captions) == 2


DAMAGE = [("val.npy", b"\x93NUMPY"), ("val.pack.json", b"{"), ("val.pack.json", b"{}")]


@pytest.mark.parametrize("name, content", DAMAGE)
def test_a_damaged_pack_is_made_again(tmp_path, name, content):
    list(make(tmp_path, RECIPE, {"val": 1}, num_workers=0))
    images = open_pack(tmp_path, "val").images.copy()
    (tmp_path / name).write_bytes(content)
    assert (open_pack(tmp_path, "val").images == images).all()


@pytest.mark.parametrize("content", ["{}", "[]", "7", "{"])
def test_an_index_that_is_none_is_named(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(BadData, match=r"index\.json"):
        open_pack(tmp_path, "val")


def test_missing_empty_and_broken_toyboxes_are_named(tmp_path):
    with pytest.raises(BadData, match=r"data_tools\.toybox out="):
        open_pack(tmp_path, "train")
    list(make(tmp_path, RECIPE, {"train": 1}, num_workers=0))
    with pytest.raises(BadData, match="no split 'valid'"):
        open_pack(tmp_path, "valid")
    with pytest.raises(BadData, match="empty"):
        open_pack(tmp_path, "test")
    (tmp_path / "train" / "train-00000" / "input" / "images" / "004.png").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"004\.png"):
        open_pack(tmp_path, "train")


def to_nan(transforms: dict) -> None:
    transforms["frames"][3]["transform_matrix"] = [[float("nan")] * 4] * 4


@pytest.mark.parametrize("change", [None, to_nan, lambda t: t.pop("caption"), lambda t: t["frames"].pop()])
def test_every_broken_object_of_a_toybox_is_counted_before_training(tmp_path, change):
    list(make(tmp_path, RECIPE, {"train": 3}, num_workers=0))
    for name in ("train-00001", "train-00002"):
        folder = tmp_path / "train" / name / "input"
        if change is None:
            Image.new("RGBA", (5, 7)).save(folder / "images" / "004.png")
            continue
        transforms = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
        change(transforms)
        (folder / "transforms.json").write_text(json.dumps(transforms), encoding="utf-8")
    with pytest.raises(BadData, match=r"2 of 3 training objects are broken, the first: 'train-00001/input.*0\.667"):
        open_pack(tmp_path, "train")
    assert not (tmp_path / "train.npy").exists()
    items = ToyboxViews(root=str(tmp_path), split="train", max_dropped=0.67)
    assert items.pack.uids == ["train-00000"] and len(items) == 1


@pytest.fixture
def damaged(tmp_path) -> Path:
    list(make(tmp_path, SMALL, {"train": 3}, num_workers=0))
    (tmp_path / "train/train-00000/target/images/000.png").write_bytes(b"")
    return tmp_path


def test_a_toybox_drops_the_same_objects_each_time_counts_them_and_reads_the_others(damaged, caplog):
    for _ in range(2):  # as it is packed, and from the pack
        images = ToyboxImages(root=str(damaged), split="train", max_dropped=0.34)
        assert "1 of 3 training objects are broken, the first: 'train-00000/target/images/000.png'" in caplog.text
        assert "they are left out (data.max_dropped=0.34)" in caplog.text
        caplog.clear()
        assert images.pack.uids == ["train-00001", "train-00002"] and len(images) == 64
        second = read_views(damaged / "train/train-00002/target").images
        assert torch.equal(images.__getitem__(33, torch.Generator())["pixels"], training_image(second[1]) * 2 - 1)
    with pytest.raises(BadData, match=r"1 of 3 training objects are broken.*data\.max_dropped=0\.334"):
        ToyboxViews(root=str(damaged), split="train")


def test_a_toybox_object_that_was_repaired_is_read_again(damaged):
    before = open_pack(damaged, "train", 0.5)
    shutil.rmtree(damaged / "train/train-00000")
    list(make(damaged, SMALL, {"train": 3}, num_workers=0))
    after = open_pack(damaged, "train")
    assert after.uids == ["train-00000", "train-00001", "train-00002"] and after.sha256 != before.sha256


def test_the_settings_let_a_toybox_drop_objects(damaged):
    given = ["+experiment=toybox/vae", f"data.root={damaged}", "data.max_dropped=0.4", "data.val=null"]
    cfg = settings(train.main.program, composed(train.main.program, given))
    assert len(instantiate(cfg.data.train)) == 2 * 32
