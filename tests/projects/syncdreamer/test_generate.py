"""The generate program as a user types it: pictures, good and bad, and what they become."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.foreground import read_object
from core.views import read_views
from tests.projects.syncdreamer.generating import a_picture, refused, run


def test_a_picture_becomes_sixteen_views_with_cameras_and_sheets(tmp_path, capsys):
    folder = tmp_path / "my pictures, ü=1"
    folder.mkdir()
    a_picture().save(folder / "châir (1).png")
    out = tmp_path / "out"
    code, err = run(capsys, f"input={folder / 'châir (1).png'}", f"out={out}", "sample_num=2", "crop_size=48")
    assert code == 0, err
    assert "memory: about" in err
    made = out / "châir (1)"
    views = read_views(made / "0")
    assert len(views) == 16 and views.images.shape[-1] == 64
    assert Image.open(made / "0.png").size == (16 * 64, 64)
    assert Image.open(made / "contact_sheet.png").size == (17 * 64, 2 * 64)
    ranking = json.loads((made / "ranking.json").read_text())
    assert sorted(entry["sample"] for entry in ranking["ranking"]) == [0, 1]
    assert ranking["best"] == max(ranking["ranking"], key=lambda entry: entry["consistency"])["sample"]
    for key in ("code", "config", "weights", "seed", "versions"):
        assert key in views.provenance
    assert not torch.equal(views.images, read_views(made / "1").images)

    code, err = run(capsys, f"input={folder / 'châir (1).png'}", f"out={out}", "sample_num=2", "crop_size=48")
    assert code == 0 and "done before, skipped" in err
    assert len(list((out / "châir (1)").glob("[0-9].png"))) == 2
    refused_code, err = run(capsys, f"input={folder / 'châir (1).png'}", f"out={out}", "sample_num=1")
    assert refused_code == 2 and "other settings" in err


@pytest.mark.slow
def test_views_do_not_depend_on_how_many_are_denoised_at_once(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    for number in (16, 3):
        assert (
            run(capsys, f"input={tmp_path / 'a.png'}", f"out={tmp_path / str(number)}", f"batch_view_num={number}")[0]
            == 0
        )
    one, other = (read_views(tmp_path / n / "a" / "0").images for n in ("16", "3"))
    assert (one - other).abs().max() <= 1 / 255 + 1e-6  # 8-bit files; the floats agree to 1e-5 (test_model.py)
    assert ((one - other).abs() > 1e-6).float().mean() < 1e-3


def test_a_folder_goes_on_past_a_bad_picture_and_lists_it(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    a_picture().save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"not a picture")
    code, err = run(capsys, f"input={folder}", f"out={tmp_path / 'out'}")
    assert code == 2 and "1 of 2 inputs failed" in err
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {Path(r["input"]).name: r["status"] for r in records} == {"bad.png": "failed", "good.png": "ok"}
    assert (tmp_path / "out" / "good" / "best" / "transforms.json").exists()


SLOW = pytest.mark.slow  # reading itself is tested mode by mode in test_images.py


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=SLOW) for mode in ("I;16", "RGB", "CMYK", "L")])
def test_a_picture_without_alpha_says_which_masks_there_are_and_takes_one(mode, tmp_path, capsys):
    suffix = ".tiff" if mode in ("CMYK", "I;16") else ".png"
    image = a_picture(mode="L").convert("I;16") if mode == "I;16" else a_picture(mode="RGB").convert(mode)
    image.save(tmp_path / f"a{suffix}")
    given = f"input={tmp_path / f'a{suffix}'}"
    refused(capsys, tmp_path / "out", given, words=["no alpha", "mask=auto"])
    mask = "auto" if mode in ("CMYK", "L") else "white"
    code, err = run(capsys, given, f"out={tmp_path / 'again'}", f"mask={mask}")
    assert code == 0, err
    assert f"mask={mask}" in err
    assert len(read_views(tmp_path / "again" / "a" / "0")) == 16


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), ["a.png"]),
        (lambda path: path.write_bytes(b"hello"), ["a.png"]),
        (lambda path: Image.new("RGBA", (9, 9)).save(path), ["no foreground pixels"]),
        (lambda path: None, ["a.png"]),
    ],
    ids=["empty", "no picture", "fully transparent", "missing"],
)
def test_a_bad_picture_is_named_in_one_line(make, words, tmp_path, capsys):
    make(tmp_path / "a.png")
    refused(capsys, tmp_path / "out", f"input={tmp_path / 'a.png'}", words=words)


@pytest.mark.slow
def test_alpha_that_is_full_everywhere_is_not_silently_taken_as_all_object(tmp_path, capsys):
    Image.new("RGBA", (1, 1), (200, 0, 0, 255)).save(tmp_path / "a.png")
    given = f"input={tmp_path / 'a.png'}"
    refused(capsys, tmp_path / "out", given, words=["same alpha everywhere", "mask=auto", "mask=white", "mask=none"])
    assert run(capsys, given, f"out={tmp_path / 'again'}", "mask=none")[0] == 0  # a single pixel is an object too


def test_auto_takes_the_alpha_that_marks_an_object_before_it_guesses(tmp_path):
    a_picture().save(tmp_path / "marked.png")
    rgba, how = read_object(tmp_path / "marked.png", "auto")
    assert how == "mask=auto: the picture's alpha" and rgba[3].mean() < 1
    assert torch.equal(rgba, read_object(tmp_path / "marked.png", "alpha")[0])
    opaque = Image.new("RGBA", (40, 30), (255, 255, 255, 255))
    opaque.paste((200, 40, 30, 255), (8, 5, 32, 25))
    opaque.save(tmp_path / "opaque.png")
    rgba, how = read_object(tmp_path / "opaque.png", "auto")
    assert "alpha" not in how and 0.3 < rgba[3].mean() < 0.5


@pytest.mark.slow
def test_exif_rotation_is_applied(tmp_path, capsys):
    upright = a_picture((30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    upright.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    for name in ("turned", "upright"):
        assert run(capsys, f"input={tmp_path / f'{name}.png'}", f"out={tmp_path / 'out'}" + name)[0] == 0
    a, b = (Image.open(tmp_path / f"out{name}" / name / "input.png") for name in ("turned", "upright"))
    assert np.array_equal(np.asarray(a), np.asarray(b))
