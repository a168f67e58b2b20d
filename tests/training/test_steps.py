"""Steps: the running average, accumulation, clipping, and what is not finite."""

import csv
import json
import math
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from core.errors import BadConfig, BadRequest
from core.training import checkpoints, schedules
from core.training.ema import EMA, decay_at
from core.training.run import run
from core.training.step import Stepper
from tests.training.toy import ToyDenoiser, config


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class OtherRank:
    """Answers each reduction as if another process took part, with terms of these names."""

    def __init__(self, **terms: float) -> None:
        named = zlib.crc32("\n".join(terms).encode())
        self.answers = [torch.tensor([named, -named, 0, 7]), torch.tensor(list(terms.values()), dtype=torch.float64)]

    def all_reduce(self, given: torch.Tensor, op=torch.distributed.ReduceOp.SUM) -> None:
        other = self.answers.pop(0)
        given.copy_(torch.maximum(given, other) if op == torch.distributed.ReduceOp.MAX else given + other)


def test_the_ranks_values_are_joined_by_their_names_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = Stepper.__new__(Stepper)
    stepper.fabric = SimpleNamespace(world_size=2, device=torch.device("cpu"), global_rank=0)
    monkeypatch.setattr(torch.distributed, "all_reduce", OtherRank(loss=3.0, loss_2d=5.0).all_reduce)
    assert stepper._agree({"loss": 1.0, "loss_2d": 1.0}, [1, 2]) == ({"loss": 2.0, "loss_2d": 3.0}, [1, 7])
    monkeypatch.setattr(torch.distributed, "all_reduce", OtherRank(loss=3.0, loss_3d=5.0).all_reduce)
    with pytest.raises(RuntimeError, match="different terms in this step; rank 0 has loss, loss_2d"):
        stepper._agree({"loss": 1.0, "loss_2d": 1.0}, [1, 2])


def test_the_average_is_decay_times_itself_plus_the_rest_of_the_value() -> None:
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float32))
    ema = EMA({"weight": weight}, decay=0.5)
    expected = torch.zeros(2)
    for update in range(12):
        weight.data = torch.tensor([1.0, float(update)])
        ema.update()
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * weight.data
    assert_close(ema.averages["weight"], expected)
    assert decay_at(10**6, 0.999) == 0.999


def test_swapping_the_average_in_leaves_the_weights_as_they_were() -> None:
    weight = nn.Parameter(torch.tensor([0.1]))
    ema = EMA({"weight": weight}, decay=0.9)
    weight.data.fill_(0.3)
    with ema.swapped():
        assert weight.item() == pytest.approx(0.1)
    assert weight.item() == pytest.approx(0.3)


def test_two_batches_of_four_are_one_batch_of_eight(tmp_path: Path) -> None:
    once = {"model__noise": 0.0, "model__dropout": 0.0, "trainer__max_steps": 4}
    run(config(tmp_path / "one", data__batch_size=8, **once))
    run(config(tmp_path / "two", data__batch_size=4, trainer__accumulate=2, **once))
    one, two = (load_file(tmp_path / name / "weights/model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert_close(two[name], one[name], rtol=0, atol=1e-6)
    for row, other in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), abs=1e-6)


def test_bf16_learns_and_keeps_float32_weights(tmp_path: Path) -> None:
    metric = run(config(tmp_path / "run", trainer__precision="bf16", trainer__max_steps=4))
    assert math.isfinite(metric)
    weights = load_file(tmp_path / "run/checkpoints/step_00000004/model.safetensors")
    assert weights["last.weight"].dtype == torch.float32


def test_frozen_weights_are_exported_but_not_in_checkpoints(whole: Path) -> None:
    kept = load_file(whole / "checkpoints/step_00000012/model.safetensors")
    assert not [name for name in kept if name.startswith("frozen_layer")]
    exported = load_file(whole / "weights/model.safetensors")
    assert exported.keys() == ToyDenoiser().state_dict().keys()
    average = load_file(whole / "checkpoints/step_00000012/ema.safetensors")
    assert torch.equal(exported["last.weight"], average["last.weight"])
    assert not torch.equal(exported["last.weight"], kept["last.weight"])


def test_long_gradients_are_clipped_and_counted(tmp_path: Path) -> None:
    run(config(tmp_path / "run", trainer__clip_norm=1e-3, trainer__max_steps=4))
    assert float(rows(tmp_path / "run")[-1]["clipped_steps"]) == 4


def test_preview_pictures_are_written(tmp_path: Path) -> None:
    run(config(tmp_path / "run", trainer__preview_every=2, trainer__max_steps=4, logger__tensorboard=True))
    assert sorted(path.name for path in (tmp_path / "run/samples").iterdir()) == ["00000002.png", "00000004.png"]
    assert list((tmp_path / "run/tensorboard").glob("events*"))


def test_where_no_pictures_are_named_those_of_the_validation_are_shown(tmp_path: Path) -> None:
    none = {"_target_": "projects.syncdreamer.data.validation_pictures", "folder": None}
    run(config(tmp_path / "run", data__preview=none, trainer__preview_every=2, trainer__max_steps=2))
    assert [path.name for path in (tmp_path / "run/samples").iterdir()] == ["00000002.png"]


def nan_in_calls(monkeypatch: pytest.MonkeyPatch, calls: range | tuple[int, ...]) -> None:
    monkeypatch.setattr(ToyDenoiser, "disturb", lambda module: math.nan if module.calls in calls else 1.0)


def test_a_step_that_is_not_finite_changes_nothing_and_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_calls(monkeypatch, (4,))
    run(config(tmp_path / "run", trainer__save_every=1, trainer__keep_last=99, trainer__max_steps=5))
    before, after = (
        json.loads((tmp_path / f"run/checkpoints/step_0000000{step}/MANIFEST.json").read_text())["files"]
        for step in (3, 4)
    )
    assert before["ema.safetensors"] == after["ema.safetensors"]
    assert before["optimizer.safetensors"] == after["optimizer.safetensors"]
    assert float(rows(tmp_path / "run")[-1]["skipped_steps"]) == 1
    (record,) = map(json.loads, (tmp_path / "run/bad_steps.jsonl").read_text().splitlines())
    assert record["step"] == 4
    assert math.isnan(record["loss"])


def test_too_many_bad_steps_go_back_once_and_draw_otherwise(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_calls(monkeypatch, (6, 7))
    settings = {"trainer__max_bad_steps": 1, "model__journal": str(tmp_path / "journal.txt")}
    run(config(tmp_path / "run", **settings))
    state = checkpoints.load(tmp_path / "run/checkpoints/step_00000012").state
    assert state["position"]["rollbacks"] == 1
    assert [row["step"] for row in rows(tmp_path / "run")] == ["2", "4", "6", "8", "10", "12"]
    lines, others = (tmp_path / "journal.txt").read_text().splitlines(), (whole.parent / "journal.txt").read_text()
    assert len(lines) == 7 + 8  # seven calls up to step 7, then again from step 4 on
    assert lines[4] in others
    assert lines[7] not in others


def test_a_run_that_stays_bad_stops_with_a_dump_and_finite_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_in_calls(monkeypatch, range(6, 99))
    with pytest.raises(BadRequest, match=r"not finite in 2 steps in a row .* dumped to"):
        run(config(tmp_path / "run", trainer__max_bad_steps=1))
    assert list((tmp_path / "run/dump").glob("step_*"))
    newest, invalid = checkpoints.newest_valid(tmp_path / "run/checkpoints")
    assert newest is not None and checkpoints.step_of(newest) == 4 and not invalid
    assert all(value.isfinite().all() for value in load_file(newest / "ema.safetensors").values())


def test_a_run_without_time_ends_before_its_first_step(tmp_path: Path) -> None:
    assert math.isnan(run(config(tmp_path / "run", trainer__time_limit_min=1e-9)))
    assert not (tmp_path / "run/checkpoints").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer__max_steps", 0),
        ("trainer__accumulate", -1),
        ("trainer__devices", 0),
        ("trainer__val_every", 0),
        ("trainer__val_batches", 0),
        ("trainer__preview_every", 0),
        ("trainer__preview_items", 0),
        ("trainer__keep_every", 0),
        ("trainer__keep_last", True),
        ("trainer__max_bad_steps", -1),
        ("trainer__time_limit_min", -5),
        ("trainer__clip_norm", -1),
        ("trainer__ema_decay", 2),
        ("trainer__precision", 16),
        ("trainer__precision", "bf61"),
        ("trainer__accelerator", "gpu"),
        ("trainer__strategy", "dpp"),
        ("logger__wandb", "onlinee"),
        ("logger__tensorboard", "yes"),
        ("schedule__steps", -5),
        ("schedule__start", -0.1),
        ("schedule__hold", 2),
        ("schedule", None),
        ("optimizer__lr", -1),
        ("optimizer__lr", math.nan),
        ("data__batch_size", -1),
        ("data__workers", -1),
        ("data__timeout_s", -1),
        ("data__max_bad_fraction", 2),
        ("resume", None),
    ],
)
def test_settings_that_no_run_can_have_are_refused_before_anything_is_made(tmp_path: Path, key: str, value) -> None:
    with pytest.raises(BadConfig, match=key.replace("__", r"\.") + "="):
        run(config(tmp_path / "run", **{key: value}))
    assert not (tmp_path / "run").exists()


def test_what_the_optimizer_refuses_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="optimizer: Invalid weight_decay"):
        run(config(tmp_path / "run", optimizer__weight_decay=-1.0))


def test_warmup_rises_and_a_cosine_falls() -> None:
    factors = [schedules.warmup_cosine(step, steps=10, max_steps=30, start=0.2, final=0.1) for step in range(41)]
    assert factors[0] == pytest.approx(0.2)
    assert factors[10] == 1.0
    assert factors[20] == pytest.approx(0.55)
    assert factors[30:] == pytest.approx([0.1] * 11)
    held = [schedules.warmup_cosine(step, steps=10, max_steps=30, final=0.1, hold=0.5) for step in range(41)]
    assert held[10:21] == [1.0] * 11
    assert held[25] == pytest.approx(0.55)
    assert held[30:] == pytest.approx([0.1] * 11)
    assert schedules.warmup(5, steps=10) == 0.5
    assert schedules.constant(3) == 1.0


def test_a_linear_decay_is_counted_from_the_first_step_and_holds_its_end() -> None:
    factors = [schedules.warmup_linear(n, steps=4, max_steps=20, start=0.2, peak=2.0, final=0.5) for n in range(31)]
    assert factors[:4] == pytest.approx([0.2, 0.65, 1.1, 1.55])
    assert factors[4:21] == pytest.approx([2.0 - 1.5 * n / 20 for n in range(4, 21)])
    assert factors[20:] == pytest.approx([0.5] * 11)
    flat = [schedules.warmup_linear(n, steps=4, max_steps=20, start=0.2) for n in range(31)]
    assert flat == pytest.approx([schedules.warmup(n, steps=4, start=0.2) for n in range(31)])
