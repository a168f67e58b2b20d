"""The generate program as a user types it: good input, and every wrong one with its line and exit code."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.models.bundled import WEIGHTS
from core.views import read_views
from projects.syncdreamer import generate

FAST = ["+experiment=syncdreamer/toybox", "sample_steps=2", "sample_num=1", "device=cpu"]
BUNDLED = WEIGHTS / "syncdreamer_toybox" / "model.safetensors"


def a_picture(size=(40, 30), mode="RGBA"):
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[5:-5, 8:-8] = (200, 40, 30, 255)
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert(mode)


def run(capsys, *arguments):
    """Exit code and what stood on stderr."""
    code = 0
    try:
        generate.main([*FAST, *arguments])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def refused(capsys, out, *arguments, words, code=2):
    """One line that says why, the exit code, and nothing under a final name."""
    found, err = run(capsys, f"out={out}", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert found == code, err
    assert len(lines) == 1 and "Traceback" not in err
    for word in words:
        assert word in lines[0]
    assert not list(Path(out).rglob("transforms.json")) and not list(Path(out).rglob("contact_sheet.png"))
    assert not list(Path(out).rglob(".tmp-*"))


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
    refused_code, err = run(capsys, f"input={folder / 'châir (1).png'}", f"out={out}", "sample_num=1")
    assert refused_code == 2 and "other settings" in err


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
    assert (tmp_path / "out" / "good" / "0" / "transforms.json").exists()


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "L", "RGB"])
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


def test_a_single_pixel_is_an_object_too(tmp_path, capsys):
    Image.new("RGBA", (1, 1), (200, 0, 0, 255)).save(tmp_path / "a.png")
    assert run(capsys, f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}")[0] == 0


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


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("lr_ratee=1", ["lr_ratee"]),
        ("cfg_scal=1", ["cfg_scale"]),
        ("trainer.max_steps=3", ["trainer"]),
        ("sample_steps=30", ["30", "use"]),
        ("sample_num=0", ["sample_num=0"]),
        ("batch_view_num=-1", ["batch_view_num=-1"]),
        ("elevation=120", ["elevation=120"]),
        ("cfg_scale=-2", ["cfg_scale=-2"]),
        ("sampler=plms", ["sampler=plms", "ddim"]),
        ("crop_size=100", ["crop_size=100"]),
        ("device=cuda:7", ["device=cuda:7"]),
        ("precision=8", ["precision=8"]),
        ("num_views=17", ["num_views=17", "viewfusion"]),
        ("weights=nowhere.ckpt", ["nowhere.ckpt"]),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(argument, words, tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    refused(capsys, tmp_path / "out", f"input={tmp_path / 'a.png'}", argument, words=words)


def damaged(tmp_path, change):
    path = tmp_path / "model.safetensors"
    content = bytearray(BUNDLED.read_bytes())
    path.write_bytes(change(content))
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: b"",
    ],
    ids=["truncated", "flipped byte", "header lies", "empty"],
)
def test_damaged_weights_are_refused_whole(change, tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    path = damaged(tmp_path, change)
    refused(capsys, tmp_path / "out", f"input={tmp_path / 'a.png'}", f"weights={path}", words=["model.safetensors"])


def test_weights_of_another_model_are_refused_with_a_guess(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    save_file({"betas": torch.zeros(1000)}, tmp_path / "other.safetensors")
    given = (f"input={tmp_path / 'a.png'}", f"weights={tmp_path / 'other.safetensors'}")
    refused(capsys, tmp_path / "out", *given, words=["other.safetensors"])


def test_nan_in_weights_is_refused(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    state = load_file(BUNDLED)
    key = next(key for key in state if key.endswith("conv_in.weight"))
    state[key].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    given = (f"input={tmp_path / 'a.png'}", f"weights={tmp_path / 'nan.safetensors'}")
    refused(capsys, tmp_path / "out", *given, words=["nan.safetensors"])


def test_a_malicious_pickle_runs_nothing(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    sentinel = tmp_path / "sentinel"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{sentinel}'",)

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    given = (f"input={tmp_path / 'a.png'}", f"weights={tmp_path / 'evil.ckpt'}")
    refused(capsys, tmp_path / "out", *given, words=["evil.ckpt"])
    assert not sentinel.exists()


def test_an_output_that_cannot_be_written_is_refused(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    code, err = run(capsys, f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'file' / 'out'}")
    assert code == 2 and err.count("error:") == 1 and "Traceback" not in err


def test_a_full_disk_leaves_nothing_half_written(tmp_path, capsys, monkeypatch):
    from projects.syncdreamer import pipeline

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    a_picture().save(tmp_path / "a.png")
    monkeypatch.setattr(pipeline, "write_image", full)
    refused(capsys, tmp_path / "out", f"input={tmp_path / 'a.png'}", words=["No space left"])


def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(tmp_path, capsys, monkeypatch):
    from projects.syncdreamer import pipeline

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    a_picture().save(tmp_path / "a.png")
    monkeypatch.setattr(pipeline, "write_views", interrupted)
    code, err = run(capsys, f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}")
    assert code == 130 and "Traceback" not in err
    assert not list((tmp_path / "out").rglob("transforms.json")) and not list((tmp_path / "out").rglob(".tmp-*"))
