"""What the machine or the data does wrong: one line, the last good state kept, nothing half-written."""

import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from core.errors import BadConfig, BadData, BadOutput, BadRequest
from core.training import checkpoints, lock
from core.training.loggers import MetricsFile
from core.training.run import run
from tests.training.toy import ToyDenoiser, config


def test_a_broken_training_sample_is_replaced_counted_and_named(tmp_path: Path) -> None:
    data = {"data__train": {"_target_": "tests.training.toy.Pictures", "broken": [4]}, "data__max_bad_fraction": 0.1}
    run(config(tmp_path / "run", trainer__max_steps=6, **data))
    (record,) = map(json.loads, (tmp_path / "run/bad_samples.jsonl").read_text().splitlines())
    assert record == {"item": 4, "cause": "BadImage: picture 4 is broken"}


def test_too_many_broken_training_samples_stop_the_run(tmp_path: Path) -> None:
    data = {"data__train": {"_target_": "tests.training.toy.Pictures", "broken": [3, 4]}, "data__max_bad_fraction": 0.1}
    with pytest.raises(BadData, match=r"2 of 12 training samples are broken"):
        run(config(tmp_path / "run", **data))


def test_a_training_set_of_broken_samples_stops_at_once(tmp_path: Path) -> None:
    data = {"data__train": {"_target_": "tests.training.toy.Pictures", "num_items": 3, "broken": [0, 1, 2]}}
    with pytest.raises(BadData, match="are broken, the last: BadImage"):
        run(config(tmp_path / "run", data__max_bad_fraction=1.0, **data))


def test_an_empty_training_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="training set is empty"):
        run(config(tmp_path / "run", data__train={"_target_": "tests.training.toy.Pictures", "num_items": 0}))


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="validation set is empty"):
        run(config(tmp_path / "run", data__val={"_target_": "tests.training.toy.Pictures", "num_items": 0}))


def test_a_worker_that_dies_is_reported_with_what_it_was_reading(tmp_path: Path) -> None:
    deadly = {"_target_": "tests.training.toy.Pictures", "deadly": [4]}
    with pytest.raises(BadData, match=r"exited unexpectedly.* reading for step \d+ \(items \["):
        run(config(tmp_path / "run", data__train=deadly, data__workers=1))


def test_a_worker_that_dies_while_its_tensors_are_fetched_is_reported_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def died(signum: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 7.")

    def fetch(loader: DataLoader) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        raise EOFError

    before = signal.signal(signal.SIGALRM, died)
    monkeypatch.setattr(DataLoader, "__iter__", fetch)
    try:
        with pytest.raises(BadData, match=r"exited unexpectedly.* reading for step 0 \(items \["):
            run(config(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGALRM, before)


def test_memory_that_does_not_suffice_is_answered_with_the_settings_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(module: ToyDenoiser) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ToyDenoiser, "disturb", exhaust)
    with pytest.raises(BadRequest, match=r"2\.00 GiB.*set data\.batch_size lower"):
        run(config(tmp_path / "run"))


def test_a_failed_save_is_reported_and_the_training_goes_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tensors, failing = checkpoints.save_tensors, [True]

    def full_once(tensors: dict, path: Path, *metadata: dict) -> None:
        if failing:
            failing.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save_tensors(tensors, path, *metadata)

    monkeypatch.setattr(checkpoints, "save_tensors", full_once)
    run(config(tmp_path / "run"))
    assert "checkpoint of step 4 not saved: cannot write" in capsys.readouterr().err
    assert (tmp_path / "run/metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_a_disk_that_stays_full_ends_the_run_with_its_last_valid_checkpoint(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    run(config(tmp_path / "run", trainer__max_steps=4))

    def on_a_full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # the system then refuses larger files
        with pytest.raises(BadOutput, match="cannot write"):
            run(config(tmp_path / "run", trainer__max_steps=8))

    assert in_child(on_a_full_disk) == 0
    assert [path.name for path in (tmp_path / "run/checkpoints").glob("*") if path.is_dir()] == ["step_00000004"]
    assert checkpoints.invalid(tmp_path / "run/checkpoints/step_00000004") is None


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput, match=r"cannot write in run folder .*choose another out="):
        run(config(tmp_path / "file/run"))


def test_a_second_run_in_a_folder_is_refused_with_the_owner(tmp_path: Path) -> None:
    with (
        lock.run_lock(tmp_path),
        pytest.raises(BadOutput, match=rf"in use by process {os.getpid()} on {socket.gethostname()}"),
        lock.run_lock(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_the_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    def die_holding_it() -> None:
        with lock.run_lock(tmp_path):
            os._exit(7)

    assert in_child(die_holding_it) == 7
    assert (tmp_path / "run.lock").exists()
    with lock.run_lock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(("silent_s", "taken"), [(5, True), (1000, False)])
def test_the_lock_of_another_host_holds_as_long_as_its_heart_beats(tmp_path: Path, silent_s: int, taken: bool) -> None:
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "1", "token": "x"}))
    os.utime(path, (path.stat().st_mtime - silent_s,) * 2)
    if taken:
        with pytest.raises(BadOutput, match="on elsewhere"), lock.run_lock(tmp_path):
            pass
    else:
        with lock.run_lock(tmp_path):
            pass


@pytest.mark.slow
def test_wandb_without_a_key_logs_offline_and_keeps_the_runs_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run(config(tmp_path / "run", trainer__max_steps=4, logger__wandb="online"))
    assert "no key on this machine, so logging offline" in capsys.readouterr().err
    name = (tmp_path / "run/wandb_id.txt").read_text().strip()
    run(config(tmp_path / "run", trainer__max_steps=6, logger__wandb="online"))
    assert len(list((tmp_path / "run/wandb").glob(f"offline-run-*-{name}"))) == 2


def test_rows_are_neither_lost_nor_doubled_when_a_table_is_reopened(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path, 0)
    for step in (1, 2, 3):
        first.add(step, {"loss": 1 / step} | ({"val/loss": 0.5} if step == 3 else {}))
    path.write_text(path.read_text() + "4,0.2")  # killed in the middle of a row
    again = MetricsFile(path, 2)
    assert path.read_text() == "step,loss\n1,1.0\n2,0.5\n"
    again.add(3, {"loss": 1 / 3, "val/loss": 0.5})
    again.add(3, {"loss": 1 / 3, "val/loss": 0.5})
    assert path.read_text() == "step,loss,val/loss\n1,1.0,\n2,0.5,\n3,0.3333333333333333,0.5\n"


@pytest.mark.parametrize(
    ("group", "key", "nearest"), [("trainer", "max_step", "max_steps"), ("logger", "wandbb", "wandb")]
)
def test_a_key_that_the_training_does_not_read_is_refused_with_the_nearest(
    tmp_path: Path, group: str, key: str, nearest: str
) -> None:
    settings = config(tmp_path / "run")
    settings[group][key] = 1
    with pytest.raises(BadConfig, match=f"unknown key {group}.{key}; the nearest known key is '{nearest}'"):
        run(settings)
    assert not (tmp_path / "run").exists()
