"""The generate program as a user types it: good input, and every wrong one with its line and exit code."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.models.bundled import WEIGHTS
from core.settings import composed, settings
from core.views import read_views
from projects.syncdreamer import generate, pipeline, results
from projects.syncdreamer.estimate import estimate_memory
from projects.syncdreamer.sampling import read_object
from projects.syncdreamer.settings import Settings
from projects.syncdreamer.weights import PREDICTION

ROOT = Path(__file__).resolve().parents[3]
FAST = ["+experiment=syncdreamer/toybox", "sample_steps=2", "sample_num=1", "device=cpu"]
BUNDLED = WEIGHTS / "syncdreamer_toybox" / "model.safetensors"


@pytest.fixture(autouse=True, scope="module")
def _estimated_once():
    """The estimate takes a second, and these tests ask for the same few again and again."""
    known = {}

    def remembered(model, settings, device):
        key = json.dumps([model, repr(settings), str(device)])
        if key not in known:
            known[key] = estimate_memory(model, settings, device)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "estimate_memory", remembered)
        yield


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
    assert len(list((out / "châir (1)").glob("[0-9].png"))) == 2
    refused_code, err = run(capsys, f"input={folder / 'châir (1).png'}", f"out={out}", "sample_num=1")
    assert refused_code == 2 and "other settings" in err


def test_the_best_sample_has_a_name_of_its_own(made):
    best = json.loads((made / "ranking.json").read_text())["best"]
    assert torch.equal(read_views(made / "best").images, read_views(made / str(best)).images)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A picture and the results of a first run on it, for tests that run again."""
    folder = tmp_path_factory.mktemp("first")
    a_picture().save(folder / "a.png")
    generate.main([*FAST, f"input={folder / 'a.png'}", f"out={folder / 'out'}", "sample_num=2"])
    return folder


@pytest.fixture
def made(first):
    return first / "out" / "a"


@pytest.fixture
def again(first, tmp_path):
    """A copy of the picture and its results, which a test may change, and the arguments of the first run."""
    shutil.copytree(first, tmp_path / "again")
    return tmp_path / "again"


def run_again(capsys, folder, *arguments):
    return run(capsys, f"input={folder / 'a.png'}", f"out={folder / 'out'}", "sample_num=2", *arguments)


def test_another_picture_under_the_same_path_is_not_taken_for_done(again, capsys):
    Image.new("RGBA", (40, 30), (0, 0, 90, 255)).save(again / "a.png")
    code, err = run_again(capsys, again)
    assert code == 2 and "another picture" in err and "done before" not in err


def test_other_weights_under_the_same_name_are_not_taken_for_the_same(again, capsys):
    state = load_file(BUNDLED)
    weights = again / "model.safetensors"
    save_file(state, weights)  # the same numbers in another file: not known to be the same
    code, err = run_again(capsys, again, f"weights={weights}")
    assert code == 2 and "other settings or weights" in err


def test_another_mask_under_the_same_path_is_not_taken_for_the_same(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    given = (f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}", f"mask={tmp_path / 'mask.png'}")
    for side, expected in ((5, 0), (6, 2)):
        mask = Image.new("L", (40, 30))
        mask.paste(255, (side, side, 20, 20))
        mask.save(tmp_path / "mask.png")
        code, err = run(capsys, *given)
        assert code == expected and "done before" not in err, err


def test_a_program_killed_before_its_line_was_written_finds_its_results_done(again, capsys):
    (again / "out" / "results.jsonl").unlink()
    code, err = run_again(capsys, again)
    assert code == 0 and "done before, skipped" in err
    (record,) = [json.loads(line) for line in (again / "out" / "results.jsonl").read_text().splitlines()]
    assert record["status"] == "skipped" and Path(record["folder"]) == again / "out" / "a"


def test_results_that_lost_a_file_are_not_taken_for_done(again, capsys):
    (again / "out" / "a" / "best" / "transforms.json").unlink()
    code, err = run_again(capsys, again)
    assert code == 2 and "done before" not in err and "overwrite=true" in err


def test_pictures_of_one_name_in_several_folders_get_folders_of_their_own(tmp_path, capsys):
    for name in ("chair", "table"):
        (tmp_path / "g" / name).mkdir(parents=True)
        a_picture().save(tmp_path / "g" / name / "000.png")
    given = (f"input={tmp_path / 'g' / '*' / '000.png'}", f"out={tmp_path / 'out'}")
    code, err = run(capsys, *given)
    assert code == 0, err
    for name in ("chair_000", "table_000"):
        assert (tmp_path / "out" / name / "best" / "transforms.json").is_file()
    code, err = run(capsys, *given)
    assert code == 0 and err.count("done before, skipped") == 2


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
        ("mask=whyte", ["mask=whyte", "white"]),
        ("mask=nowhere/mask.png", ["nowhere/mask.png"]),
        ("mask=rembg", ["mask=rembg", "u2net.onnx"]),
        ("weights=nowhere.ckpt", ["nowhere.ckpt"]),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(argument, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    a_picture().save(tmp_path / "a.png")
    refused(capsys, tmp_path / "out", f"input={tmp_path / 'a.png'}", argument, words=words)
    assert not (tmp_path / "out" / "results.jsonl").exists()  # no picture is blamed


WRONG = ["precision=8", "crop_size=100", "mask=whyte", "sample_steps=30", "num_views=17", "sampler=plms", "eta=2"]


def test_wrong_values_are_told_before_torch_loads():
    program = """
import sys
from projects.syncdreamer import generate
for wrong in sys.argv[1:]:
    try:
        generate.main(["+experiment=syncdreamer/toybox", "input=x.png", wrong])
    except SystemExit as stop:
        assert stop.code == 2, wrong
    else:
        raise AssertionError(wrong)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program, *WRONG], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(WRONG)


def test_weights_that_predict_something_else_are_refused(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    save_file(load_file(BUNDLED), tmp_path / "m.safetensors", metadata={PREDICTION: "velocity"})
    given = (f"input={tmp_path / 'a.png'}", f"weights={tmp_path / 'm.safetensors'}")
    refused(capsys, tmp_path / "out", *given, "model.denoiser.prediction=noise", words=["velocity", "m.safetensors"])
    assert run(capsys, *given, f"out={tmp_path / 'again'}")[0] == 0


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
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    a_picture().save(tmp_path / "a.png")
    monkeypatch.setattr(results, "write_image", full)
    refused(capsys, tmp_path / "out", f"input={tmp_path / 'a.png'}", words=["No space left"])


def start_and_wait_for_sampling(tmp_path, out):
    """A real run of many steps, once the first are behind it."""
    a_picture().save(tmp_path / "a.png")
    command = [sys.executable, "-m", "projects.syncdreamer.generate", *FAST, "sample_steps=500", f"out={out}"]
    process = subprocess.Popen(
        [*command, f"input={tmp_path / 'a.png'}"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob(".tmp-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    assert process.poll() is None, process.communicate()[1]
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_leaves_nothing_temporary_or_half_written(signum, code, tmp_path):
    out = tmp_path / "out"
    process = start_and_wait_for_sampling(tmp_path, out)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "overrides.yaml", "provenance.json", "syncdreamer_generate.log"
    }  # fmt: skip


def test_the_memory_that_is_announced_is_about_what_the_run_takes(tmp_path):
    a_picture().save(tmp_path / "a.png")
    program = """
import resource, sys
from projects.syncdreamer import generate
generate.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""
    given = [*FAST, f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "-c", program, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    announced = float(re.search(r"memory: about ([0-9.]+) GiB", done.stderr)[1])
    assert 0.5 < announced / (int(done.stdout.split()[-1]) / 2**30) < 2


def test_the_published_size_is_estimated_without_weights_and_by_batch_and_precision():
    model = settings(generate.main.program, composed(generate.main.program, ["input=x"])).model
    estimates = {
        (views, precision): estimate_memory(
            model, Settings(batch_view_num=views, precision=precision), torch.device("cpu")
        )
        for views, precision in ((1, "32"), (16, "32"), (16, "bf16"))
    }
    one, many, half = estimates.values()
    assert 5 < one.weights / 2**30 < 5.1 and one.weights == half.weights
    assert many.activations > 4 * one.activations and many.activations > 1.5 * half.activations
    assert "batch_view_num=16" in many.hint and "float32" in str(many) and "bfloat16" in str(half)


def test_memory_that_runs_out_is_one_line_that_names_what_to_lower(tmp_path, capsys, monkeypatch):
    for name in ("a", "b"):
        a_picture().save(tmp_path / f"{name}.png")
    monkeypatch.setattr(pipeline, "make_samples", lambda *_: torch.empty(2**55))
    words = ["out of memory", "batch_view_num=8", "GiB"]
    refused(capsys, tmp_path / "out", f"input={tmp_path / '*.png'}", words=words)
    assert not (tmp_path / "out" / "results.jsonl").exists()  # no picture is blamed
