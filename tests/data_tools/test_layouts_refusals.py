"""Official layouts: what one cannot hold is refused, and what is there already is neither lost nor made twice."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.views import ViewSet, read_views, write_views
from data_tools.layouts._convert import import_all
from tests.data_tools.layouts import (
    BLENDER_35MM,
    BLENDER_50MM,
    SETTINGS,
    close,
    exported,
    imported,
    make_cap3d,
    make_ouroboros,
    make_syncdreamer,
    make_zero123,
    picture,
    ring,
)  # fmt: skip


def refused(layout: str, tmp_path: Path, views: ViewSet, **settings) -> str:
    write_views(tmp_path / "views/chair", views)
    with pytest.raises(UserError) as raised:
        exported(layout, tmp_path / "views", tmp_path / "out", **settings)
    assert not (tmp_path / "out/chair").exists()
    return str(raised.value)


@pytest.mark.parametrize("layout", ["zero123", "viewfusion_abo", "viewfusion_gso", "cap3d"])
def test_a_lens_that_the_layout_does_not_store_is_refused(layout, tmp_path):
    assert "view 0 has focal lengths 32" in refused(layout, tmp_path, ring(2.0, 0))


def test_a_lens_off_the_middle_is_refused_where_only_an_angle_is_stored(tmp_path):
    views = ring(1.2, 0)
    views.cameras.intrinsics.data = views.cameras.intrinsics.clone()
    views.cameras.intrinsics[3, 0, 2] += 1
    assert "view 3 has" in refused("ouroboros", tmp_path, views)


def test_a_rolled_camera_is_refused_where_only_angles_are_stored(tmp_path):
    views = ring(BLENDER_35MM, 0)
    roll = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    views.cameras.poses[2] = views.cameras.poses[2] @ roll
    assert "view 2 does not face the origin upright" in refused("viewfusion_gso", tmp_path, views)


def test_targets_of_other_cameras_are_refused_by_syncdreamers_layout(tmp_path):
    views = ring(BLENDER_35MM, 0, num_views=16)
    for part in ("target", "input"):
        write_views(tmp_path / "views/chair" / part, views)
    with pytest.raises(UserError, match="target view 0 is not SyncDreamer's"):
        exported("syncdreamer", tmp_path / "views", tmp_path / "out")
    with pytest.raises(UserError, match=r"has the parts input, target; this layout holds one, choose it by part="):
        exported("zero123", tmp_path / "views", tmp_path / "out")
    exported("zero123", tmp_path / "views", tmp_path / "out", part="input")
    assert (tmp_path / "out/chair/015.npy").is_file()


def test_an_axis_for_a_layout_that_fixes_it_is_refused(tmp_path):
    make_zero123(tmp_path / "in")
    with pytest.raises(UserError, match="layout=zero123 has z up"):
        imported("zero123", tmp_path / "in", tmp_path / "out", up="y")


def test_a_second_run_does_what_is_missing_and_nothing_is_replaced_unasked(tmp_path):
    make_zero123(tmp_path / "in")
    settings = {**SETTINGS, "layout": "zero123", "source": str(tmp_path / "in")}
    out = tmp_path / "out"
    assert [record["status"] for record in import_all(settings, out)] == ["ok"]
    assert [record["status"] for record in import_all(settings, out)] == ["skipped"]
    picture(tmp_path / "in/chair/001.png", 99)
    with pytest.raises(UserError, match="from other files"):
        import_all(settings, out)
    import_all(settings | {"overwrite": True}, out)
    with Image.open(tmp_path / "in/chair/001.png") as new, Image.open(out / "chair/images/001.png") as made:
        assert np.array_equal(np.asarray(new), np.asarray(made))


@pytest.mark.parametrize("layout", ["zero123", "ouroboros", "colmap", "nerfstudio"])
def test_a_folder_of_other_things_is_never_replaced(layout, tmp_path):
    write_views(tmp_path / "views/chair", ring(BLENDER_35MM, 0))
    mine = tmp_path / "out/chair/thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="holds other things"):
        exported(layout, tmp_path / "views", tmp_path / "out", overwrite=True)
    assert mine.read_text() == "mine"


def test_an_object_half_done_when_a_run_was_killed_is_done_again(tmp_path):
    make_syncdreamer(tmp_path / "in")
    imported("syncdreamer", tmp_path / "in", tmp_path / "out")
    whole = read_views(tmp_path / "out/chair/target")
    (tmp_path / "out/chair/provenance.json").unlink()
    shutil.rmtree(tmp_path / "out/chair/target")
    imported("syncdreamer", tmp_path / "in", tmp_path / "out")
    close(read_views(tmp_path / "out/chair/target"), whole)


def test_the_source_itself_is_no_place_for_the_result(tmp_path):
    make_zero123(tmp_path / "in")
    with pytest.raises(UserError, match="is the source itself"):
        imported("zero123", tmp_path / "in", tmp_path / "in")


def test_two_sources_in_one_folder_share_its_lists(tmp_path):
    for name, split in (("a", "train"), ("b", "val"), ("c", "train")):
        make_ouroboros(tmp_path / name)
        (tmp_path / name / "chair").rename(tmp_path / name / name)
        (tmp_path / name / "train.txt").unlink()
        (tmp_path / name / f"{split}.txt").write_text(name)
        imported("ouroboros", tmp_path / name, tmp_path / "views")
    index = json.loads((tmp_path / "views/index.json").read_text())
    assert index == {"objects": ["a", "b", "c"], "splits": {"train": ["a", "c"], "val": ["b"]}}
    exported("ouroboros", tmp_path / "views", tmp_path / "out")
    write_views(tmp_path / "more/d", ring(BLENDER_35MM, 0))
    exported("ouroboros", tmp_path / "more", tmp_path / "out")
    lists = {split: (tmp_path / f"out/{split}.txt").read_text().split() for split in ("train", "val")}
    assert lists == {"train": ["a", "c", "d"], "val": ["b"]}


def test_cap3ds_folders_never_lose_another_programs_files(tmp_path):
    write_views(tmp_path / "views/chair", ring(BLENDER_50MM, 0))
    make_cap3d(tmp_path / "out")
    theirs = (tmp_path / "out/Cap3D_imgs_view2/chair_2.png").read_bytes()
    with pytest.raises(UserError, match=r"chair_0\.png' is there already, made by another program"):
        exported("cap3d", tmp_path / "views", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/Cap3D_imgs_view2/chair_2.png").read_bytes() == theirs


def test_cap3ds_folders_are_finished_after_a_kill(tmp_path):
    write_views(tmp_path / "views/chair", ring(BLENDER_50MM, 0))
    exported("cap3d", tmp_path / "views", tmp_path / "out")
    whole = {path: path.read_bytes() for path in (tmp_path / "out").glob("Cap3D*/*")}
    (tmp_path / "out/provenance/chair.json").write_text("{}")  # as it is while the files are written
    next(iter(whole)).unlink()
    exported("cap3d", tmp_path / "views", tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("Cap3D*/*")} == whole
