"""Framing: the boxes that SyncDreamer and Zero-1-to-3 cut out, computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from core.errors import BadConfig, UserError
from core.images import framed, prepare_input, read_image, read_image_with_info
from data_tools.crop import check, main
from data_tools.pictures.viewfusion import viewfusion_framed
from data_tools.pictures.zero123 import zero123_framed


def picture(height: int, width: int, rows: slice, columns: slice, *, alpha: int = 255) -> torch.Tensor:
    """A blue object with soft corners off its box, on transparent black."""
    values = np.zeros((height, width, 4), np.uint8)
    values[rows, columns] = (0, 0, 255, alpha)
    return torch.from_numpy(values).permute(2, 0, 1).float() / 255


def box(inside: torch.Tensor) -> tuple[int, int, int, int]:
    """[left, top, right, bottom) of the true pixels."""
    rows, columns = inside.nonzero().T
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_syncdreamers_box_loses_its_last_row_and_column_and_is_enlarged():
    # Columns 20..59, rows 10..29: cut out [20, 59) x [10, 29), 39 x 19 pixels, times 200 / 39: 200 x int(97.4), from
    # (256 - 200) // 2 = 28 and (256 - 97) // 2 = 79.
    found = framed(picture(64, 80, slice(10, 30), slice(20, 60)), crop_size=200, size=256)
    assert box(found[3] > 0) == (28, 79, 228, 176)


def test_syncdreamers_box_counts_the_faintest_alpha():
    rgba = picture(64, 64, slice(20, 40), slice(20, 40))
    rgba[3, 10, 20] = 1 / 255  # the box becomes [20, 39) x [10, 39): 19 x 29, times 200 / 29: int(131.03) x 200
    found = framed(rgba, crop_size=200, size=256)
    assert box(found[3] > 0.5)[::2] == (62, 193)


def test_without_a_crop_size_the_picture_is_padded_to_a_square():
    # 20 x 40 becomes 40 x 40 with 10 columns on each side, times 2: the object's columns 5..14 become [30, 50).
    found = framed(picture(40, 20, slice(0, 40), slice(5, 15)), crop_size=-1, size=80)
    assert box(found[3] > 0.5) == (30, 0, 50, 80)


def test_zero123s_box_is_whole_shrunk_to_200_and_centred_on_white():
    # Columns 50..449, rows 100..399: 400 x 300 pixels, halved to 200 x 150, from (28, 53).
    found, cut = zero123_framed(picture(500, 500, slice(100, 400), slice(50, 450)), crop_size=200, size=256)
    assert cut == (50, 100, 450, 400)
    assert box(found[0] < 0.5) == (28, 53, 228, 203)
    assert (found[:, :53] == 1).all() and (found[:, :, :28] == 1).all()


def test_zero123_leaves_a_small_object_as_small_as_it_is():
    # 40 x 20 pixels stay, from ((256 - 40) // 2, (256 - 20) // 2) = (108, 118).
    found, cut = zero123_framed(picture(64, 80, slice(10, 30), slice(20, 60)), crop_size=200, size=256)
    assert cut == (20, 10, 60, 30)
    assert box(found[0] < 0.5) == (108, 118, 148, 138)


def test_zero123_cuts_alpha_at_127_and_keeps_the_colours_of_what_passes():
    rgba = picture(32, 32, slice(8, 16), slice(8, 16), alpha=128)
    rgba[:, 20:24, 20:24] = torch.tensor([1.0, 0, 0, 127 / 255])[:, None, None]
    found, cut = zero123_framed(rgba, crop_size=200, size=256)
    assert cut == (8, 8, 16, 16)
    assert torch.equal(found[:, 124:132, 124:132], torch.tensor([0.0, 0, 1])[:, None, None].expand(3, 8, 8))


def test_viewfusions_canvas_makes_the_object_as_broad_as_asked_and_scales_nothing():
    # Columns 20..59 of 80: breadth 0.5, so the side is int(0.5 * 80 / 0.8) = 50, and the picture moves by
    # int((50 - 80) / 2) = -15, int((50 - 64) / 2) = -7: rows 10..29 lie at 3, columns at 5.
    rgba = picture(64, 80, slice(10, 30), slice(20, 60))
    found, breadth = viewfusion_framed(rgba, target_breadth=0.8)
    assert breadth == 0.5 and found.shape == (4, 50, 50)
    assert box(found[3] > 0) == (5, 3, 45, 23)
    assert (found[3] > 0).any(dim=0).double().mean() == 0.8
    larger, _ = viewfusion_framed(rgba, target_breadth=0.25)  # side 160, moved by 40, 48
    assert larger.shape == (4, 160, 160) and box(larger[3] > 0) == (60, 58, 100, 78)
    assert viewfusion_framed(rgba, target_breadth=0.25, size=64)[0].shape == (4, 64, 64)


def test_viewfusions_breadth_of_a_high_picture_counts_columns_but_scales_by_the_longer_side():
    # Columns 10..19 of 40, 100 high: int(0.25 * 100 / 0.5) = 50.
    assert viewfusion_framed(picture(100, 40, slice(0, 9), slice(10, 20)), target_breadth=0.5)[0].shape == (4, 50, 50)


def saved(path: Path, rgba: torch.Tensor) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray((rgba * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return path


def crop(source: Path, out: Path, **settings) -> None:
    """The program without Hydra, which takes most of a second."""
    cfg = {"rule": "syncdreamer", "crop_size": 200, "size": 256, "mask": None, "overwrite": False, "seed": 0}
    cfg["target_breadth"] = None
    cfg |= {"input": str(source), "out": str(out), **settings}
    check(cfg)
    main.main(OmegaConf.create(cfg))


def test_a_framed_picture_is_what_generate_would_have_made_of_the_original(tmp_path):
    rgba = picture(64, 80, slice(10, 30), slice(20, 60))
    crop(saved(tmp_path / "in/a.png", rgba), tmp_path / "out")
    made, info = read_image_with_info(tmp_path / "out/a.png")
    assert info.mode == "RGBA"
    again = prepare_input(made, crop_size=-1, size=256)
    assert torch.equal(again, prepare_input(rgba, crop_size=200, size=256))


def test_both_rules_write_their_pictures_and_what_they_did(tmp_path):
    saved(tmp_path / "in/a.png", picture(64, 80, slice(10, 30), slice(20, 60)))
    crop(tmp_path / "in", tmp_path / "out", rule="zero123", size=64, crop_size=20)
    made, info = read_image_with_info(tmp_path / "out/a.png")
    assert info.mode == "RGB" and made.shape == (4, 64, 64)
    [record] = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text("utf-8").splitlines()]
    assert (record["rule"], record["from"], record["box"]) == ("zero123", [80, 64], [20, 10, 60, 30])


def test_a_picture_without_alpha_is_refused_unless_a_mask_is_named(tmp_path, capsys):
    rgb = torch.ones(3, 64, 64)
    rgb[1:, 20:44, 10:50] = 0
    saved(tmp_path / "in/plain.png", rgb)
    with pytest.raises(SystemExit) as ended:
        main([f"input={tmp_path}/in", f"out={tmp_path}/out"])
    assert ended.value.code == 2 and "data_tools.segment" in capsys.readouterr().err
    crop(tmp_path / "in", tmp_path / "out", mask="white")
    assert box(read_image(tmp_path / "out/plain.png")[3] > 0) == (28, 69, 228, 186)  # 39 x 23: 200 x int(117.9)
    assert "mask=white" in capsys.readouterr().err


def test_an_empty_picture_is_listed_and_the_others_are_framed(tmp_path):
    saved(tmp_path / "in/empty.png", torch.zeros(4, 16, 16))
    saved(tmp_path / "in/full.png", picture(16, 16, slice(2, 12), slice(2, 12)))
    for rule in ("syncdreamer", "zero123"):
        with pytest.raises(UserError, match="no foreground pixels"):
            crop(tmp_path / "in", tmp_path / rule, rule=rule)
        assert [path.name for path in (tmp_path / rule).glob("*.png")] == ["full.png"]
    with pytest.raises(UserError, match="no foreground pixels"):
        crop(tmp_path / "in", tmp_path / "breadth", rule="viewfusion", crop_size=None, size=None, target_breadth=0.6)
    assert read_image(tmp_path / "breadth/full.png").shape == (4, 16, 16)  # int(10 / 16 * 16 / 0.6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_size": 300}, "crop_size=300: expected a whole number from 1 to 256"),
        ({"rule": "zero124"}, "rule=zero124: choose one of syncdreamer, zero123, viewfusion"),
        ({"rule": "viewfusion", "crop_size": None}, "rule=viewfusion needs target_breadth="),
        ({"rule": "viewfusion", "target_breadth": 0.5}, "crop_size=200: rule=viewfusion scales no box"),
        (
            {"rule": "viewfusion", "crop_size": None, "target_breadth": 0.0},
            "target_breadth=0.0: expected a number above 0",
        ),
        ({"target_breadth": 0.5}, "target_breadth=0.5 is of rule=viewfusion"),
        ({"rule": "zero123", "crop_size": -1}, "rule=zero123 never does"),
        ({"size": 0}, "size=0: expected"),
        ({"mask": "whyte"}, "mask=whyte is neither"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(BadConfig, match=message):
        crop(tmp_path, tmp_path / "out", **settings)
