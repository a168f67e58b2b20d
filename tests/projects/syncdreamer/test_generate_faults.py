"""What the generate program says to wrong settings and weights, to signals, and to too little memory or room."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.config import plain
from core.settings import composed, settings
from core.training.denoising import PREDICTION
from projects.syncdreamer import generate, pipeline, results
from projects.syncdreamer.estimate import estimate_memory
from projects.syncdreamer.settings import Settings
from tests.projects.syncdreamer.generating import BUNDLED, FAST, ROOT, a_picture, refused, run


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        pytest.param("lr_ratee=1", ["lr_ratee"], marks=pytest.mark.slow),
        pytest.param("cfg_scal=1", ["cfg_scale"], marks=pytest.mark.slow),
        ("trainer.max_steps=3", ["trainer"]),
        ("sample_steps=2000", ["2000", "use"]),
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


WRONG = ["precision=8", "crop_size=100", "mask=whyte", "sample_steps=2000", "num_views=17", "sampler=plms", "eta=2"]


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_published_size_is_estimated_without_weights_and_by_batch_and_precision():
    model = plain(settings(generate.main.program, composed(generate.main.program, ["input=x"])).model)
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
