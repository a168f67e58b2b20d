"""A finished run that is started again takes no step, and its record goes on saying how its weights were made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.errors import BadConfig
from core.training.loop import Loop
from core.training.run import run
from tests.training.toy import config


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    """A copy of the uninterrupted run, which a test may change."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def again(finished: Path, whole: Path, **changes: Any) -> float:
    return run(config(finished, **{"model__journal": str(whole.parent / "journal.txt"), **changes}))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "weights/provenance.json").read_text())


def test_with_the_same_settings_it_returns_its_metric_and_changes_nothing(finished: Path, whole: Path) -> None:
    before, steps = contents(finished), (whole.parent / "journal.txt").read_text()
    metric = again(finished, whole)
    assert metric == float(before["metrics.csv"].decode().splitlines()[-1].split(",")[-2])
    assert contents(finished) == before
    assert (whole.parent / "journal.txt").read_text() == steps


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimizer__lr": 1.0}, r"optimizer\.lr 0\.01 -> 1\.0"),
        ({"optimizer__lr": 1.0, "force_resume": True}, r"optimizer\.lr 0\.01 -> 1\.0"),
        ({"seed": 4, "data__batch_size": 2}, r"data\.batch_size 4 -> 2, seed 3 -> 4"),
        ({"trainer__max_steps": 8}, r"trainer\.max_steps 12 -> 8"),
    ],
)
def test_settings_that_did_not_make_its_weights_are_refused_with_what_to_do(
    finished: Path, whole: Path, changes: dict[str, Any], says: str
) -> None:
    before = contents(finished)
    with pytest.raises(BadConfig, match=rf"finished \(step 12\).*{says}.*another out=, or raise trainer\.max_steps"):
        again(finished, whole, **changes)
    assert contents(finished) == before


def test_settings_that_decide_nothing_any_more_are_named_and_the_record_stays(
    finished: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    again(finished, whole, trainer__save_every=3)
    assert "trainer.save_every: 4 -> 3 changes nothing" in capsys.readouterr().err
    assert contents(finished) == before


def test_where_results_go_and_what_is_shown_may_be_another_place(finished: Path, whole: Path) -> None:
    before = contents(finished)
    finished.rename(finished.with_name("moved"))
    again(finished.with_name("moved"), whole, publish=str(finished / "elsewhere"), logger__tensorboard=True)
    assert contents(finished.with_name("moved") / "weights") == {
        name.removeprefix("weights/"): content for name, content in before.items() if name.startswith("weights/")
    }


def test_with_more_steps_it_goes_on_with_the_new_settings_and_records_them(finished: Path, whole: Path) -> None:
    again(finished, whole, trainer__max_steps=14, optimizer__lr=0.02, model__journal=None)
    assert record(finished)["step"] == 14
    assert record(finished)["config"]["optimizer"]["lr"] == 0.02


@pytest.mark.parametrize("lost", ["weights", "weights/provenance.json", "weights/model.safetensors"])
def test_lost_weights_are_written_again_with_the_record_of_their_making(finished: Path, whole: Path, lost: str) -> None:
    made, kept = record(finished), (finished / "weights/model.safetensors").read_bytes()
    shutil.rmtree(finished / lost) if lost == "weights" else (finished / lost).unlink()
    again(finished, whole, trainer__save_every=3)
    assert (finished / "weights/model.safetensors").read_bytes() == kept
    now = record(finished)
    assert {key: now[key] for key in ("config", "config_hash", "code", "step", "seed")} == {
        key: made[key] for key in ("config", "config_hash", "code", "step", "seed")
    }


def test_weights_of_an_earlier_step_are_replaced(finished: Path, whole: Path) -> None:
    kept = (finished / "weights/model.safetensors").read_bytes()
    earlier = record(finished) | {"step": 7}  # a run stopped by its time limit, continued, killed before its end
    (finished / "weights/provenance.json").write_text(json.dumps(earlier))
    (finished / "weights/model.safetensors").write_bytes(b"of step 7")
    again(finished, whole)
    assert (finished / "weights/model.safetensors").read_bytes() == kept and record(finished)["step"] == 12


def test_without_time_for_a_step_the_record_says_who_took_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config(tmp_path / "run", trainer__max_steps=4))
    monkeypatch.setattr(Loop, "_out_of_time", lambda loop: True)
    run(config(tmp_path / "run", optimizer__lr=1.0))
    assert record(tmp_path / "run")["config"]["optimizer"]["lr"] == 0.01
    assert record(tmp_path / "run")["step"] == 4


def test_the_record_of_the_run_folder_stays_only_where_no_step_was_taken(
    finished: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    monkeypatch.setattr("core.training.run.keep_earlier_record", lambda: kept.append(1))
    again(finished, whole)
    assert kept == [1]
    again(finished, whole, trainer__max_steps=13, model__journal=None)
    assert kept == [1]
