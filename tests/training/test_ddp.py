"""Two processes on the CPU train as one does, draw differently, and stop together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from core.errors import BadConfig, BadData
from core.training import launching
from core.training.run import run
from tests.training.toy import ToyDenoiser, config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start by fork: at once, and with the test's patches in them."""

    def strategy(start_method: str, **options):
        return launching_strategy(start_method="fork", **options)

    launching_strategy = launching.DDPStrategy
    monkeypatch.setattr(launching, "DDPStrategy", strategy)


def two(out: Path, **changes) -> dict:
    return config(out, trainer__devices=2, trainer__strategy="ddp", **changes)


def journal(path: Path) -> list[tuple[list[int], float]]:
    """(items, noise) of each training step."""
    entries = (line.rpartition("]") for line in path.read_text().splitlines())
    return [(json.loads(items + "]"), float(rest.split()[0])) for items, _, rest in entries]


def test_two_processes_learn_what_one_with_twice_the_batch_learns(tmp_path: Path, forked: None) -> None:
    plain = {"model__noise": 0.0, "model__dropout": 0.0, "trainer__max_steps": 4}
    one = run(config(tmp_path / "one", data__batch_size=8, **plain))
    both = run(two(tmp_path / "two", data__batch_size=2, trainer__accumulate=2, **plain))
    assert both == pytest.approx(one, abs=1e-6)
    weights, others = (load_file(tmp_path / name / "weights/model.safetensors") for name in ("one", "two"))
    for name in weights:
        assert_close(others[name], weights[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_processes_refuse_idle_parameters_unless_told_to_look_for_them(
    tmp_path: Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyDenoiser, "has_idle_parameters", True)
    with pytest.raises(BadConfig, match=r"needs trainer\.strategy=ddp_find_unused"):
        run(two(tmp_path / "plain", trainer__max_steps=1))
    run(config(tmp_path / "told", trainer__devices=2, trainer__strategy="ddp_find_unused", trainer__max_steps=1))
    assert (tmp_path / "told/weights/model.safetensors").is_file()


@pytest.mark.slow
def test_a_signal_stops_both_processes_with_a_checkpoint_and_they_continue_bit_for_bit(
    tmp_path: Path, forked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(two(tmp_path / "whole", model__journal=str(tmp_path / "rank")))
    ranks = [journal(tmp_path / f"rank{rank}") for rank in (0, 1)]
    for (items, noise), (other_items, other_noise) in zip(*ranks, strict=True):
        assert noise != other_noise
        assert len(items) == len(other_items) == 4
    assert not set(ranks[0][0][0]) & set(ranks[1][0][0])

    def signal_the_parent_from_rank_1(module: ToyDenoiser) -> float:
        if module.calls == 6 and torch.distributed.get_rank() == 1:
            os.kill(os.getppid(), signal.SIGTERM)
        return 1.0

    with monkeypatch.context() as patch:
        patch.setattr(ToyDenoiser, "disturb", signal_the_parent_from_rank_1)
        with pytest.raises(SystemExit) as end:
            run(two(tmp_path / "run"))
    assert end.value.code == 143
    assert not (tmp_path / "run/weights").exists()
    run(two(tmp_path / "run"))
    for name in ("metrics.csv", "weights/model.safetensors", "checkpoints/step_00000012/optimizer.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_fault_in_one_process_ends_all_with_its_cause(tmp_path: Path, forked: None) -> None:
    broken = {"_target_": "tests.training.toy.Pictures", "num_items": 8, "broken": list(range(1, 8))}
    with pytest.raises(BadData, match="are broken"):
        run(two(tmp_path / "run", data__train=broken))
    assert not (tmp_path / "run/run.lock").exists()


@pytest.mark.slow
def test_spawned_processes_train_and_only_rank_0_writes(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import core.config\n"
        "core.config.ALLOWED = (*core.config.ALLOWED, 'tests')\n"
        "from core.training.run import run\n"
        "from tests.training.toy import config\n"
        "if __name__ == '__main__':\n"
        "    run(config(Path(sys.argv[1]), trainer__devices=2, trainer__max_steps=4))\n"
    )
    (tmp_path / "train.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "metrics.csv", "weights"]
    assert (tmp_path / "run/metrics.csv").read_text().splitlines()[-1].startswith("4,")
