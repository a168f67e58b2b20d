"""The program that trains the multi-view model, on a small toybox: resumed exactly, adapters, a subject, refusals."""

import csv
import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from core.config import instantiate
from core.settings import composed, settings
from data_tools.toybox.make import Recipe, make
from projects.mvdream_sds import train_views
from projects.mvdream_sds.lora import load_lora
from projects.mvdream_sds.weights import load_weights

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["data.batch_size=2", "trainer.log_every=1", "trainer.val_every=null", "trainer.save_every=2",
         "trainer.preview_every=null", "logger.tensorboard=false", "trainer.precision=32"]  # fmt: skip


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    root = tmp_path_factory.mktemp("toybox")
    list(make(root, Recipe(), {"train": 4, "val": 1, "test": 1}, num_workers=0))
    return root


def command(*arguments, experiment="views_toybox", program="train_views"):
    experiments = [f"+experiment=[{','.join(f'mvdream_sds/{name}' for name in experiment.split())}]"]
    return [sys.executable, "-m", f"projects.mvdream_sds.{program}", *(experiments if experiment else []), *arguments]


def train(*arguments, check=True, **how):
    return subprocess.run(command(*SMALL, *arguments, **how), cwd=ROOT, capture_output=True, text=True, check=check)


def rows(out):
    with (Path(out) / "metrics.csv").open() as file:
        return [(row["step"], row["loss"], row.get("loss_2d"), row.get("loss_3d")) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def run(toybox, tmp_path_factory):
    """A finished training of ten steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(f"data.root={toybox}", f"out={out}", "trainer.max_steps=10", "trainer.preview_every=10",
          "trainer.preview_items=1", "model.preview_steps=2")  # fmt: skip
    return out


@pytest.mark.slow
def test_a_killed_training_continues_bit_for_bit_through_steps_of_both_kinds(toybox, run, tmp_path):
    arguments = [*SMALL, f"data.root={toybox}", "trainer.max_steps=10", f"out={tmp_path / 'killed'}"]
    running = subprocess.Popen(command(*arguments), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not list((tmp_path / "killed" / "checkpoints").glob("step_*")):
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights").exists(), "the run was over before it was killed"
    subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, check=True)
    assert rows(tmp_path / "killed") == rows(run)
    assert 0 < sum(bool(two) for _, _, two, _ in rows(run)) < 10, "all steps were of one kind"
    one, other = (load_file(out / "weights" / "model.safetensors") for out in (run, tmp_path / "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_a_run_publishes_and_adapters_and_a_subject_are_learnt_on_it(toybox, run, tmp_path):
    assert list((run / "samples").glob("*.png"))
    published = tmp_path / "toy"
    subprocess.run(
        command(f"run={run}", f"publish={published}", f"out={tmp_path / 'log'}", experiment="", program="publish"),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads((published / "card.json").read_text())["cpu_seconds"] > 0
    start = f"model.start={published / 'model.safetensors'}"
    train(start, f"data.root={toybox}", f"out={tmp_path / 'lora'}", "trainer.max_steps=2",
          experiment="views_toybox lora")  # fmt: skip
    adapters = tmp_path / "lora" / "weights" / "model.safetensors"
    assert all(".lora_" in name for name in load_file(adapters))
    config = settings(
        train_views.main.program, composed(train_views.main.program, ["+experiment=mvdream_sds/views_toybox"])
    )
    made = instantiate(config.model)
    load_weights(made, published / "model.safetensors")
    before = {name: value.clone() for name, value in made.denoiser.state_dict().items()}
    load_lora(made.denoiser, adapters)
    changed = {name for name, value in made.denoiser.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(".attn" in name for name in changed)
    pictures = next((toybox / "test").glob("*/target/images"))
    train(start, "trainer.max_steps=2", "data.prompt='a red cube'", f"data.train.root={pictures}",
          f"out={tmp_path / 'subject'}", experiment="dreambooth_toybox")  # fmt: skip
    learnt = load_file(tmp_path / "subject" / "weights" / "model.safetensors")
    assert {name.removeprefix("denoiser.") for name in learnt} == before.keys()


@pytest.mark.slow
def test_two_processes_read_the_same_kind_in_each_step(toybox, tmp_path):
    """The terms are named by their kind, and the trainer refuses ranks that name others."""
    train(f"data.root={toybox}", "trainer=ddp_cpu", "trainer.max_steps=4", f"out={tmp_path / 'ddp'}")
    found = rows(tmp_path / "ddp")
    assert len(found) == 4 and all(bool(two) != bool(three) for _, _, two, three in found)


@pytest.mark.slow
def test_a_misspelt_key_is_answered_without_loading_torch():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = train("data.train.p_3d=0.5", check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "p_3d" in done.stderr and "p_2d" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3  # torch alone would take as long


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data.train.p_2d=1.5"], "p_2d=1.5: expected a number from 0 to 1"),
        (["model.denoiser.num_views=5"], "num_views=5: the toybox has 16 views around"),
        (["model.start=nowhere"], "no weights to start from at 'nowhere'"),
    ],
)
def test_a_wrong_setting_is_one_line(toybox, tmp_path, arguments, says):
    done = train(f"data.root={toybox}", f"out={tmp_path / 'run'}", *arguments, check=False)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
