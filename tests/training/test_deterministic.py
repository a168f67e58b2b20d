"""trainer.deterministic holds while the run trains, and ends with it."""

from pathlib import Path

import pytest
import torch

from core.training.run import run
from tests.training.toy import ToyDenoiser, config


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_it_is_as_wanted_in_every_step_and_afterwards_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool, before: bool
) -> None:
    seen: list[bool] = []

    def look(module: ToyDenoiser) -> float:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return 1.0

    monkeypatch.setattr(ToyDenoiser, "disturb", look)
    torch.use_deterministic_algorithms(before)
    run(config(tmp_path / "run", trainer__max_steps=2, trainer__deterministic=wanted))
    assert seen == [wanted, wanted]
    assert torch.are_deterministic_algorithms_enabled() is before


def test_an_operation_whose_result_varies_is_refused_only_when_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_in_any_order(module: ToyDenoiser) -> float:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))  # which of two writes stays is open
        return 1.0

    monkeypatch.setattr(ToyDenoiser, "disturb", fill_in_any_order)
    run(config(tmp_path / "run", trainer__max_steps=1))
    with pytest.raises(RuntimeError, match="deterministic"):
        run(config(tmp_path / "strict", trainer__max_steps=1, trainer__deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()
