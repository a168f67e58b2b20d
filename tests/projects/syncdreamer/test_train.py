"""The train program on toybox data: two steps, kill and resume, a sweep through a launcher, two processes."""

import csv
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_tools.toybox.make import Recipe, make

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "trainer.max_steps=6",
    "data.batch_size=2",
    "trainer.log_every=1",
    "trainer.val_every=null",
    "trainer.save_every=2",
    "trainer.preview_every=null",
    "logger.tensorboard=false",
    "trainer.precision=32",
]


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    root = tmp_path_factory.mktemp("toybox")
    list(make(root, Recipe(), {"train": 4, "val": 1, "test": 1}, num_workers=0))
    return root


def command(toybox, *arguments):
    return [sys.executable, "-m", "projects.syncdreamer.train", "+experiment=syncdreamer/toybox", f"data.root={toybox}",
            *SMALL, *arguments]  # fmt: skip


def train(toybox, *arguments, check=True):
    return subprocess.run(command(toybox, *arguments), cwd=ROOT, capture_output=True, text=True, check=check)


def losses(out):
    with (Path(out) / "metrics.csv").open() as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_training_continues_bit_for_bit(toybox, tmp_path):
    train(toybox, f"out={tmp_path / 'whole'}")
    running = subprocess.Popen(command(toybox, f"out={tmp_path / 'killed'}"), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not list((tmp_path / "killed" / "checkpoints").glob("step_*")):
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights").exists(), "the run was over before it was killed"
    train(toybox, f"out={tmp_path / 'killed'}")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    one, other = (load_file(tmp_path / name / "weights" / "model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_sweep_runs_through_a_launcher(toybox, tmp_path):
    done = train(
        toybox, "-m", "hydra/launcher=submitit_local", "seed=1,2", f"out={tmp_path / 'sweep'}", "trainer.max_steps=1"
    )
    found = sorted((tmp_path / "sweep").glob("*/weights/model.safetensors"))
    assert len(found) == 2, done.stderr
    one, other = (load_file(path) for path in found)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_two_processes_train_together_and_validation_leaves_a_picture(toybox, tmp_path):
    train(
        toybox, "trainer=ddp_cpu", "trainer.max_steps=2", "trainer.preview_every=2", "trainer.preview_items=1",
        "model.preview_steps=1", f"out={tmp_path / 'ddp'}", "trainer.accumulate=2",
    )  # fmt: skip
    assert len(losses(tmp_path / "ddp")) == 2
    assert list((tmp_path / "ddp" / "samples").glob("*.png"))


def test_a_misspelt_key_is_answered_without_loading_torch(toybox):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = train(toybox, "lr_ratee=1", check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "lr_ratee" in done.stderr and "optimizer.lr" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3  # torch alone would take as long
