"""The official training layout."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from core.config import instantiate
from core.errors import BadConfig, BadData, UserError
from core.settings import composed, settings
from projects.syncdreamer import train
from projects.syncdreamer.data import OfficialViews, ValidationPictures, read_uids


@pytest.fixture
def layout(tmp_path):
    rng = np.random.default_rng(0)
    elevations = rng.uniform(-0.1, 0.6, 16).astype(np.float32)
    for part in ("target", "input"):
        for uid in ("chair", "täble"):
            folder = tmp_path / part / uid
            folder.mkdir(parents=True)
            for view in range(16):
                pixels = np.full((32, 32, 4), 255, np.uint8)
                pixels[..., 0] = 10 * view  # tells the view
                Image.fromarray(pixels).save(folder / f"{view:03d}.png")
            if part == "input":
                meta = [
                    np.eye(3, dtype=np.float32),
                    np.zeros(16, np.float32),
                    elevations,
                    np.full(16, 1.5),
                    np.zeros((16, 3, 4)),
                ]
                (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    (tmp_path / "uid_set.pkl").write_bytes(pickle.dumps(["chair", "täble"]))
    return tmp_path, elevations


def views(layout, **options):
    root, _ = layout
    given = {"target_dir": str(root / "target"), "input_dir": str(root / "input"), "uids": str(root / "uid_set.pkl")}
    return OfficialViews(**{**given, "image_size": 32, **options})


def test_targets_follow_the_input_view_around_the_ring(layout):
    items = views(layout)
    item = items.__getitem__(1, torch.Generator().manual_seed(3))
    # Truncation to 8 bits may cost one of the ten steps between views.
    levels = ((item["target_pixels"][:, 0, 0, 0] + 1) * 12.75).round()
    start = int(((item["input_pixels"][0, 0, 0] + 1) * 12.75).round())
    assert levels.tolist() == [(start + i) % 16 for i in range(16)]
    assert item["input_elevation"].item() == pytest.approx(layout[1][start])


def test_other_sizes_are_resized_to_the_models(layout):
    item = views(layout, image_size=16).__getitem__(0, torch.Generator().manual_seed(0))
    assert item["target_pixels"].shape == (16, 3, 16, 16)


def test_uids_come_from_a_pickle_or_a_text_file(layout):
    root, _ = layout
    (root / "uids.txt").write_text("chair\n\ntäble\n", encoding="utf-8")
    assert read_uids(root / "uids.txt") == read_uids(root / "uid_set.pkl") == ["chair", "täble"]


@pytest.mark.parametrize(
    ("content", "words"), [("", "no objects"), ("chair\nchair\n", "twice")], ids=["empty", "listed twice"]
)
def test_a_bad_list_of_uids_is_refused(layout, content, words):
    root, _ = layout
    (root / "uids.txt").write_text(content)
    with pytest.raises(BadData, match=words):
        read_uids(root / "uids.txt")


def test_a_list_of_uids_in_another_encoding_is_named(layout):
    root, _ = layout
    (root / "uids.txt").write_bytes("chair\ntäble\n".encode("latin-1"))
    with pytest.raises(BadData, match=r"uids\.txt' is no UTF-8 text \(byte 7\)"):
        read_uids(root / "uids.txt")


def test_a_missing_folder_is_named(layout):
    with pytest.raises(BadData, match="nowhere"):
        views(layout, target_dir="nowhere")


def test_a_missing_view_is_a_user_error_that_training_can_count(layout):
    root, _ = layout
    (root / "target" / "chair" / "005.png").unlink()
    with pytest.raises(UserError, match=r"005\.png"):
        views(layout).__getitem__(0, torch.Generator())


def test_a_malicious_meta_file_runs_nothing(layout, tmp_path):
    import os

    root, _ = layout
    sentinel = tmp_path / "sentinel"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{sentinel}'",)

    (root / "input" / "chair" / "meta.pkl").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(UserError):
        views(layout).__getitem__(0, torch.Generator())
    assert not sentinel.exists()


def test_validation_pictures_carry_their_elevation_in_the_name(tmp_path):
    pixels = np.zeros((30, 20, 4), np.uint8)
    pixels[5:25, 5:15] = 255
    Image.fromarray(pixels).save(tmp_path / "my-chair-20.png")
    item = ValidationPictures(folder=str(tmp_path), image_size=32, crop_size=24).__getitem__(0, torch.Generator())
    assert item["input_pixels"].shape == (3, 32, 32)
    assert item["input_elevation"].item() == pytest.approx(np.radians(20))
    (tmp_path / "my-chair-20.png").rename(tmp_path / "chair.png")
    with pytest.raises(BadData, match="chair-20"):
        ValidationPictures(folder=str(tmp_path))


def preview_of(*typed):
    """What data.preview of the published recipe builds, from a command line."""
    given = [f"data.train.{key}=none" for key in ("target_dir", "input_dir", "uids")]
    line = ["+experiment=syncdreamer/paper", *given, *typed]
    return instantiate(settings(train.main.program, composed(train.main.program, line)).data.preview)


def test_the_published_recipe_shows_pictures_when_it_is_given_a_folder_of_them(tmp_path):
    assert preview_of() is None
    Image.fromarray(np.full((30, 20, 4), 255, np.uint8)).save(tmp_path / "chair-20.png")
    for typed in (f"data.preview.folder={tmp_path}", f"data.preview={{folder: {tmp_path}}}"):
        pictures = preview_of(typed)
        assert len(pictures) == 1 and pictures.image_size == 256
    with pytest.raises(BadConfig, match="crop_size=200: expected a whole number from 1 to 64"):
        preview_of(f"data.preview.folder={tmp_path}", "data.preview.image_size=64")
    with pytest.raises(BadData, match=r"no pictures \*\.png"):
        preview_of("data.preview.folder=nowhere")


def test_a_picture_alone_is_enough_for_a_preview():
    from tests.projects.syncdreamer import tiny

    batch = {"input_pixels": torch.zeros(2, 3, 32, 32), "input_elevation": torch.zeros(2, 1)}
    picture = tiny.system(preview_steps=1).eval().preview(batch, torch.Generator().manual_seed(0))
    assert picture.shape == (3, 2 * 32, 17 * 32)
