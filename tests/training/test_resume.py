"""A run killed anywhere, and started again in its folder, ends as if nothing had happened: bit for bit on the CPU."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.errors import BadCheckpoint, BadConfig
from core.training import checkpoints
from core.training.loop import Loop
from core.training.run import run
from tests.training.toy import ToyDenoiser, config

InChild = Callable[[Callable[[], object]], int]


def assert_same_run(folder: Path, whole: Path) -> None:
    """Rows, weights, averages, optimiser state, and position agree to the last bit."""
    assert (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    ours, theirs = (
        json.loads((run_folder / "checkpoints/step_00000012/MANIFEST.json").read_text())["files"]
        for run_folder in (folder, whole)
    )
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors", "optimizer.json"):
        assert ours[name] == theirs[name], name
    assert (folder / "weights/model.safetensors").read_bytes() == (whole / "weights/model.safetensors").read_bytes()


def at_call(number: int, action: Callable[[], object]) -> Callable[[ToyDenoiser], float]:
    def disturb(module: ToyDenoiser) -> float:
        if module.calls == number:
            action()
        return 1.0

    return disturb


def killed_by(signum: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), signum)


def resumed_journal_is_the_end_of(journal: Path, whole: Path) -> bool:
    """Items, noise and losses of the steps taken after the resume are those of the whole run's last steps."""
    lines = journal.read_text().splitlines()
    return lines == (whole.parent / "journal.txt").read_text().splitlines()[-len(lines) :]


@pytest.mark.parametrize("call", [2, 7])
def test_a_run_killed_in_a_step_continues_bit_for_bit(
    tmp_path: Path, whole: Path, in_child: InChild, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ToyDenoiser, "disturb", at_call(call, killed_by(signal.SIGKILL)))
        assert in_child(lambda: run(config(tmp_path / "run"))) == -signal.SIGKILL
    run(config(tmp_path / "run", model__journal=str(tmp_path / "journal.txt")))
    assert_same_run(tmp_path / "run", whole)
    assert resumed_journal_is_the_end_of(tmp_path / "journal.txt", whole)


@pytest.mark.parametrize("written", ["ema.safetensors", "state.json", "MANIFEST.json", "last"])
def test_a_run_killed_during_a_save_continues_bit_for_bit(
    tmp_path: Path, whole: Path, in_child: InChild, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    with monkeypatch.context() as patch:
        _kill_when_writing(patch, written, step=8)
        assert in_child(lambda: run(config(tmp_path / "run"))) == -signal.SIGKILL
    newest, invalid = checkpoints.newest_valid(tmp_path / "run/checkpoints")
    assert newest is not None and not invalid
    assert checkpoints.step_of(newest) == (8 if written == "last" else 4)
    run(config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)
    assert not list((tmp_path / "run/checkpoints").glob(".tmp-*"))


def _kill_when_writing(patch: pytest.MonkeyPatch, written: str, step: int) -> None:
    """The process dies when it is about to write that file of that step's checkpoint."""
    save, tensors, notes, pointer = (
        getattr(checkpoints, name) for name in ("save", "save_tensors", "save_json", "atomic_file")
    )
    saving: list[int] = []

    def dying(path: Path) -> None:
        if path.name == written and saving[-1:] == [step]:
            os.kill(os.getpid(), signal.SIGKILL)

    patch.setattr(checkpoints, "save", lambda root, snapshot: (saving.append(snapshot.step), save(root, snapshot))[1])
    patch.setattr(checkpoints, "save_tensors", lambda content, path: (dying(path), tensors(content, path)))
    patch.setattr(checkpoints, "save_json", lambda content, path: (dying(path), notes(content, path)))
    patch.setattr(checkpoints, "atomic_file", lambda path: (dying(path), pointer(path))[1])


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGUSR2, 140), (signal.SIGINT, 130)]
)
def test_a_signal_saves_at_the_steps_end_and_the_run_continues_bit_for_bit(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(ToyDenoiser, "disturb", at_call(7, killed_by(signum)))
        with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
            run(config(tmp_path / "run"))
    assert getattr(end.value, "code", 130) == code
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000007\n"
    assert not (tmp_path / "run/run.lock").exists()
    run(config(tmp_path / "run", model__journal=str(tmp_path / "journal.txt"), trainer__keep_last=9))
    assert len((tmp_path / "journal.txt").read_text().splitlines()) == 5
    assert resumed_journal_is_the_end_of(tmp_path / "journal.txt", whole)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_lets_the_workers_finish_the_step(
    tmp_path: Path, whole: Path, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_in_a_group() -> None:
        os.setsid()
        run(config(tmp_path / "run", data__workers=2))

    with monkeypatch.context() as patch:
        patch.setattr(ToyDenoiser, "disturb", at_call(6, lambda: os.killpg(0, signal.SIGTERM)))
        assert in_child(run_in_a_group) == 143
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000006\n"
    run(config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


def test_a_run_stopped_by_its_time_limit_continues_bit_for_bit(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_out_of_time", lambda loop: loop.at.step >= 6)
        run(config(tmp_path / "run"))
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000007\n"
    run(config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


def test_a_loss_is_told_how_far_the_run_is_also_where_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, float]] = []

    def watched(module: ToyDenoiser, *given) -> dict[str, torch.Tensor]:
        seen.append((module.training, module.progress))
        return plain(module, *given)

    plain = ToyDenoiser.loss
    monkeypatch.setattr(ToyDenoiser, "loss", watched)
    changes = {"trainer__max_steps": 4, "trainer__val_every": 2, "trainer__save_every": 1}
    run(config(tmp_path / "run", **changes))
    whole = list(dict.fromkeys(seen))
    assert whole == [(True, 0.0), (True, 0.25), (False, 0.5), (True, 0.5), (True, 0.75), (False, 1.0)]
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000004")
    seen.clear()
    run(config(tmp_path / "run", **changes))
    assert list(dict.fromkeys(seen)) == [(True, 0.75), (False, 1.0)]


def test_a_signal_in_the_validation_saves_after_it(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = ToyDenoiser.loss

    def interrupted(module, batch, generator):
        if not module.training:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(module, batch, generator)

    with monkeypatch.context() as patch:
        patch.setattr(ToyDenoiser, "loss", interrupted)
        with pytest.raises(SystemExit):
            run(config(tmp_path / "run"))
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000006\n"
    run(config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


def test_the_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        killed_by(signal.SIGINT)()
        killed_by(signal.SIGINT)()

    monkeypatch.setattr(ToyDenoiser, "disturb", at_call(6, twice))
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "run"))
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000004\n"


def test_a_launcher_that_swallows_a_signal_lets_the_run_go_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: caught.append(number))
    try:
        monkeypatch.setattr(ToyDenoiser, "disturb", at_call(6, killed_by(signal.SIGUSR2)))
        run(config(tmp_path / "run"))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert caught == [signal.SIGUSR2]
    assert_same_run(tmp_path / "run", whole)


def test_a_broken_checkpoint_is_named_left_alone_and_the_one_before_is_used(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(tmp_path / "run", trainer__max_steps=8))
    broken = tmp_path / "run/checkpoints/step_00000008/model.safetensors"
    content = bytearray(broken.read_bytes())
    content[-3] ^= 1
    broken.write_bytes(content)
    run(config(tmp_path / "run"))
    said = capsys.readouterr().err
    assert "step_00000008 is not valid: model.safetensors differs from the sha256" in said
    assert "continuing from step 4" in said
    aside = tmp_path / "run/checkpoints/step_00000008.broken-1/model.safetensors"
    assert aside.read_bytes() == bytes(content)
    assert_same_run(tmp_path / "run", whole)


def test_changed_data_settings_need_force_resume_and_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(tmp_path / "run", trainer__max_steps=4))
    with pytest.raises(BadConfig, match=r"data\.batch_size 4 -> 2.*force_resume=true"):
        run(config(tmp_path / "run", data__batch_size=2))
    capsys.readouterr()
    run(config(tmp_path / "run", data__batch_size=2, force_resume=True, optimizer__lr=0.02, trainer__max_steps=5))
    assert "resuming with optimizer.lr: 0.01 -> 0.02" in capsys.readouterr().err


def test_resume_never_refuses_a_folder_that_has_checkpoints(whole: Path) -> None:
    with pytest.raises(BadConfig, match="resume=never"):
        run(config(whole, resume="never"))


def test_a_start_that_is_no_checkpoint_says_what_it_is_instead(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, says in {
        "nope": "there is no such folder",
        "file": "it is no folder",
        "folder": "or is no checkpoint",
    }.items():
        with pytest.raises(BadCheckpoint, match=f"{name}': .*{says}; use another one"):
            run(config(tmp_path / "run", resume=str(tmp_path / name)))


def test_another_model_is_refused_with_what_differs(tmp_path: Path) -> None:
    run(config(tmp_path / "run", trainer__max_steps=4))
    with pytest.raises(ValueError, match=r"another model: \d unexpected \(norm"):
        run(config(tmp_path / "run", model__dropout=0.0))
