"""Pairs of views: the official layout with what may be wrong with it, and toybox objects from random poses, encoded."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from core.cameras.poses import spherical
from core.data.free_views import FreeViews
from core.errors import BadConfig, BadData, BadImage, BadOutput, UserError
from core.views import read_views
from data_tools.layouts._convert import export_all
from data_tools.toybox.__main__ import main as toybox_program
from data_tools.toybox.free import ELEVATIONS_DEG, write_free
from data_tools.toybox.make import Recipe, make
from projects.viewfusion.data import EncodedPairs, OfficialPairs, read_names
from tests.data_tools.layouts import SETTINGS
from tests.projects.syncdreamer import tiny

RECIPE = Recipe(image_size=32)
VIEWS = 4


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    """A toybox, and beside it the same objects from random poses."""
    root = tmp_path_factory.mktemp("toybox")
    list(make(root / "ring", RECIPE, {"train": 2, "val": 0, "test": 0}, num_workers=0))
    list(write_free(root / "ring", root / "free", RECIPE, num_views=VIEWS, num_workers=0))
    return root / "free"


@pytest.fixture
def official(free, tmp_path):
    """Two objects in Zero-1-to-3's layout, the first under a name that needs care; it trains, the other validates."""
    export_all({**SETTINGS, "layout": "zero123", "source": str(free / "train")}, tmp_path / "out")
    names = json.loads((tmp_path / "out" / "valid_paths.json").read_text())
    (tmp_path / "out" / names[1]).rename(tmp_path / "out" / "täble 2")
    (tmp_path / "out" / "valid_paths.json").write_text(json.dumps(["täble 2", names[0]]), encoding="utf-8")
    return tmp_path / "out"


def pairs(root, **options):
    return OfficialPairs(root=str(root), **{"split": "train", "image_size": 32, "num_views": VIEWS, **options})


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_pair_is_two_views_of_an_object_with_the_pose_between_them(free, official):
    item = pairs(official).__getitem__(0, draw(3))
    views = read_views(free / "train" / "train-00001")
    rgba = views.images
    # Zero-1-to-3 whitens what has no alpha at all, and keeps the colours of half-covered edges as they are.
    white = torch.where(rgba[:, 3:] == 0, torch.ones_like(rgba[:, :3]), rgba[:, :3]) * 2 - 1
    found = {}
    for name in ("target", "input"):
        gaps = (white - item[f"{name}_pixels"]).abs().flatten(1).amax(dim=1)
        assert gaps.min() < 2.5 / 255  # cut to 8 bits
        found[name] = int(gaps.argmin())
    assert found["target"] != found["input"]
    azimuth, elevation, _ = spherical(views.cameras.centers)
    turn = azimuth[found["target"]] - azimuth[found["input"]]
    fall = elevation[found["input"]] - elevation[found["target"]]  # the polar angle grows downwards
    assert_close(item["pose"], torch.stack([fall, turn.sin(), turn.cos(), torch.zeros(())]), rtol=0, atol=1e-4)


def test_every_ordered_pair_of_views_is_drawn(official):
    items = pairs(official)
    poses = {tuple(items.__getitem__(0, draw(seed))["pose"].mul(1e4).round().tolist()) for seed in range(80)}
    assert len(poses) == VIEWS * (VIEWS - 1)


def test_the_first_99_percent_of_the_list_train_and_the_rest_validates(official):
    first, other = read_names(official)
    (official / "valid_paths.json").write_text(json.dumps([*[first] * 149, other]), encoding="utf-8")
    train, val = pairs(official), pairs(official, split="val")
    assert (len(train), len(val)) == (148, 2)
    assert [bytes(name).decode() for name in val.names] == [first, other] and set(train.names) == {first.encode()}


def test_views_are_resized_to_the_models_size(official):
    assert pairs(official, image_size=16).__getitem__(0, draw())["input_pixels"].shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"no list of objects in '.*valid_paths.json'.*views_release"),
        ("[1, 2]", "no list of folder names"),
        ("[]", "lists no objects"),
        ('["../secret"]', "leads out of the folder"),
        ("{", "no list of objects"),
    ],
)
def test_a_bad_list_is_refused(official, content, words):
    path = official / "valid_paths.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(BadData, match=words):
        pairs(official)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "001.png").unlink(), "001.png is missing"),
        (lambda folder: (folder / "002.npy").write_bytes(b""), "002.npy is empty"),
        (lambda folder: folder.rename(folder.with_name("gone")), "no folder '.*täble 2'"),
    ],
)
def test_broken_objects_stop_a_run_unless_they_may_be_dropped(official, damage, words):
    damage(official / "täble 2")
    with pytest.raises(BadData, match=f"1 of 2 training objects are broken, the first: täble 2: {words}"):
        pairs(official)
    assert [len(pairs(official, max_dropped=0.5, split=split)) for split in ("train", "val")] == [0, 1]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: np.save(folder / "000.npy", np.eye(4)), r"000.npy' holds \(4, 4\) numbers instead of 3 x 4"),
        (lambda folder: np.save(folder / "000.npy", np.full((3, 4), np.nan)), "instead of 3 x 4 finite ones"),
        (lambda folder: (folder / "000.npy").write_text("no matrix"), "000.npy' is no matrix"),
        (lambda folder: (folder / "000.png").write_text("no picture"), "000.png"),
        (lambda folder: Image.new("RGBA", (20, 10)).save(folder / "000.png"), "20 x 10 pixels; renderings are square"),
    ],
)
def test_a_file_that_only_reading_finds_broken_is_a_user_error_that_training_can_count(official, damage, words):
    items = pairs(official, num_views=2)
    damage(official / "täble 2")
    with pytest.raises(UserError, match=words):
        items.__getitem__(0, draw())


def test_impossible_settings_are_refused(official):
    for wrong in ({"num_views": 1}, {"split": "test"}, {"image_size": 0}):
        with pytest.raises(BadConfig, match=next(iter(wrong))):
            pairs(official, **wrong)


def test_free_views_are_the_toyboxs_objects_from_random_poses_above_and_below(free):
    views = FreeViews(root=free, split="train")
    assert views.uids == ["train-00000", "train-00001"] and views.angles.shape == (2, VIEWS, 3)
    low, high = (math.radians(angle) for angle in ELEVATIONS_DEG)
    azimuth, elevation, distance = views.angles.unbind(-1)
    assert (elevation > low - 1e-5).all() and (elevation < high + 1e-5).all()
    assert elevation.unique().numel() == azimuth.unique().numel() == 2 * VIEWS
    assert_close(distance, torch.full_like(distance, 1.5))
    written = read_views(free / "train" / "train-00001")
    ring = read_views(free.parent / "ring" / "train" / "train-00001" / "target")
    assert written.caption == ring.caption
    assert_close(torch.stack(spherical(written.cameras.centers), dim=-1), views.angles[1], rtol=0, atol=1e-5)
    assert_close(views.pixels(1, [2])[0], (written.rgb()[2] * 255).floor() / 127.5 - 1, rtol=0, atol=2.5 / 255)


def test_free_views_are_made_again_from_the_seed_and_only_where_missing(free, tmp_path):
    kept = (free / "train" / "train-00000" / "transforms.json").stat().st_mtime_ns
    index = json.loads((free / "index.json").read_text())
    list(write_free(free.parent / "ring", free, RECIPE, num_views=VIEWS, num_workers=0))
    assert (free / "train" / "train-00000" / "transforms.json").stat().st_mtime_ns == kept
    list(write_free(free.parent / "ring", tmp_path / "again", RECIPE, num_views=VIEWS, num_workers=0))
    assert json.loads((tmp_path / "again" / "index.json").read_text()) == index
    with pytest.raises(BadOutput, match="choose another free="):
        list(write_free(free.parent / "ring", free, RECIPE, num_views=VIEWS + 1, num_workers=0))


@pytest.mark.slow
def test_the_program_writes_free_views_beside_a_toybox(free, tmp_path):
    ring = free.parent / "ring"
    sizes = ["objects.train=2", "objects.val=0", "objects.test=0", "image_size=32", f"free_views={VIEWS}"]
    toybox_program([f"out={ring}", f"free={tmp_path / 'free'}", "num_workers=0", *sizes])
    assert (tmp_path / "free" / "index.json").read_text() == (free / "index.json").read_text()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "train.cameras.npy").unlink(), "train.cameras.npy' is unreadable.*free="),
        (lambda root: np.save(root / "train.cameras.npy", np.zeros((1, 2, 3))), r"holds no \(2, 4, 3\) finite numbers"),
        (lambda root: (root / "index.json").unlink(), "no toybox in"),
    ],
)
def test_damaged_free_views_are_named(free, tmp_path, damage, words):
    for name in ("index.json", "train.cameras.npy"):
        (tmp_path / name).write_bytes((free / name).read_bytes())
    damage(tmp_path)
    with pytest.raises(BadData, match=words):
        FreeViews(root=tmp_path, split="train")


def test_a_damaged_picture_of_free_views_is_named(free, tmp_path):
    views = FreeViews(root=free, split="train")
    views.folder = tmp_path
    with pytest.raises(BadImage, match=r"train-00000/images/000\.png"):
        views.pixels(0, [0])


def test_a_ring_of_fixed_cameras_is_no_free_views(free):
    with pytest.raises(BadData, match="fixed cameras; make one with random poses: free=DIR"):
        FreeViews(root=free.parent / "ring", split="train")
    with pytest.raises(BadData, match="no split 'tests'"):
        FreeViews(root=free, split="tests")


def test_encoded_pairs_are_the_pictures_through_the_encoders(free, tmp_path):
    torch.manual_seed(0)
    latents, encoder = tiny.latents(), tiny.image_encoder()
    given = {"root": str(free), "split": "train", "latents": latents, "image_encoder": encoder, "cache": str(tmp_path)}
    items, views = EncodedPairs(**given), FreeViews(root=free, split="train")
    assert len(items) == 2
    item = items.__getitem__(1, draw(5))
    target, source = torch.randperm(VIEWS, generator=draw(5))[:2].tolist()
    with torch.no_grad():
        moments = latents.moments(views.pixels(1, [target, source]))
        token = encoder(views.pixels(1, [source]))
    assert_close(item["target_moments"], moments[0], rtol=1e-3, atol=1e-3)  # kept in 16 bits
    assert_close(item["input_moments"], moments[1], rtol=1e-3, atol=1e-3)
    assert_close(item["input_embedding"], token[0])
    turn = views.angles[1, target] - views.angles[1, source]
    assert_close(item["pose"], torch.stack([-turn[1], turn[0].sin(), turn[0].cos(), turn[2]]), rtol=0, atol=1e-5)
