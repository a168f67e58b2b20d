"""Hydra's flags and sweeps: help, settings shown, several jobs, and the launch path of a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.app import app
from tests.app.toy_program import PROGRAM, ROOT, in_a_process


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "Does nothing, in little time."),
        (["--cfg", "job"], 0, "max_steps: 3"),
        (["lr_ratee=1"], 2, "nearest known key"),
        (["--version"], 0, "commit"),
    ],
)
def test_help_settings_and_refusals_answer_within_three_cpu_seconds(conf, arguments, code, says):
    returned, stdout, stderr, seconds = in_a_process(*arguments)
    assert returned == code and says in stdout + stderr
    assert seconds < 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["steps=3", "--cfg", "job", "--resolve"],
        ["--cfg", "job", "steps=3"],
        ["steps=3", "--cfg", "job", "seed=1", "--package", "_global_"],
        ["steps=3", "--help"],
    ],
)
def test_hydras_flags_may_stand_anywhere(toy, arguments):
    try:
        app(config_name="toy", conf=toy.conf)(print)(arguments)
    except SystemExit as stop:
        pytest.fail(f"exit code {stop.code}: {toy.capsys.readouterr().err}")
    assert "steps: 3" in toy.capsys.readouterr().out


def test_information_may_be_asked_for_after_a_setting(conf):
    code, stdout, stderr, _ = in_a_process("steps=3", "--info")
    assert code == 0 and "steps: 3" in stdout, stderr


def test_help_begins_with_the_programs_own_settings_and_their_comments(toy):
    (toy.conf / "toy_generate.yaml").write_text(
        "defaults: [base/app, model: small, data: null, _self_]\nname: toy\n"
        "input: ???     # an image\nbox:   # of numbers\n  side: 3     # in pixels\n"
    )
    app(config_name="toy_generate", conf=toy.conf)(print)(["--help", "box.side=4"])
    said = toy.capsys.readouterr().out
    lines = ["input: ???                 # an image", "box:                       # of numbers",
             "  side: 4                  # in pixels", "model:", "model: broken, small"]  # fmt: skip
    assert [line for line in said.splitlines() if line in lines] == lines
    assert "# the run folder" in said and "trainer" not in said


def test_help_needs_no_choice_of_a_group(toy):
    path = toy.conf / "toy.yaml"
    path.write_text(path.read_text().replace("model: small", "model: '???'"))
    app(config_name="toy", conf=toy.conf)(print)(["--help"])
    assert "model: broken, small" in toy.capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_a_reader_who_leaves_ends_the_program_quietly(conf, arguments):
    (conf / "toy.yaml").write_text((conf / "toy.yaml").read_text() + f"long: {'x' * 100_000}\n")
    Path("toy.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "toy", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_sweep_flag_may_stand_between_settings(toy):
    assert toy("seed=1,2", "-m", "steps=4", "out=runs")[0] == 0
    assert [(cfg.seed, cfg.steps) for cfg in toy.seen] == [(1, 4), (2, 4)]


def test_a_sweep_gives_each_job_its_own_folder(toy):
    code, stderr = toy("-m", "seed=1,2", "out=runs")
    assert code == 0, stderr
    assert [(cfg.seed, Path(cfg.out).name, Path(cfg.out).parent.name) for cfg in toy.seen] == [
        (1, "0", "runs"),
        (2, "1", "runs"),
    ]


@pytest.mark.slow
def test_a_sweep_overlay_expands_into_jobs(toy):
    assert toy("+sweep=seeds", "out=runs")[0] == 0
    assert [cfg.seed for cfg in toy.seen] == [1, 2, 3]


def test_a_wrong_sweep_is_refused_before_any_job(toy):
    code, stderr = toy("-m", "seed=1,2", "lr_ratee=3")
    assert code == 2 and "lr_ratee" in stderr and not toy.seen


def test_a_cluster_that_is_not_there_is_said_to_be_missing(toy, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, stderr = toy("-m", "seed=1,2", "hydra/launcher=slurm")
    assert code == 2 and "sbatch is not on PATH" in stderr and "hydra/launcher=local" in stderr


@pytest.mark.slow
def test_a_sweep_runs_through_the_launch_path_of_a_cluster(conf):
    code, _, stderr, _ = in_a_process("-m", "seed=1,2", "hydra/launcher=submitit_local", "out=runs")
    assert code == 0, stderr
    assert [Path(f"runs/{job}/seed").read_text() for job in (0, 1)] == ["1", "2"]
