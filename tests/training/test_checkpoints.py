"""A checkpoint folder is whole and verified, or it is named with its cause and not used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from core.errors import BadCheckpoint, BadOutput
from core.training import checkpoints
from core.training.checkpoints import Snapshot, invalid, load, newest_valid, retire, save

Damage = Callable[[Path], object]


def snapshot(step: int) -> Snapshot:
    weight = torch.full((3, 2), float(step))
    return Snapshot(step, {"model": {"a": weight, "tied": weight}, "ema": {"a": weight}}, {"x": 0.1}, {"a:step": 4})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, snapshot(7))
    loaded = load(folder)
    assert (loaded.step, loaded.state, loaded.notes) == (7, {"x": 0.1}, {"a:step": 4})
    assert torch.equal(loaded.tensors["model"]["tied"], snapshot(7).tensors["model"]["tied"])
    assert (tmp_path / "last").read_text() == "step_00000007\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step_00000007"]


@pytest.mark.parametrize(
    ("name", "damage", "cause"),
    [
        ("model.safetensors", flip, "differs from the sha256"),
        ("state.json", flip, "differs from the sha256"),
        ("ema.safetensors", truncate, "bytes, its manifest says"),
        ("ema.safetensors", Path.unlink, "ema.safetensors is missing"),
        ("MANIFEST.json", truncate, "MANIFEST.json cannot be read"),
        ("MANIFEST.json", Path.unlink, "never finished"),
        ("MANIFEST.json", lambda path: path.write_text("[]"), "MANIFEST.json cannot be read"),
        ("MANIFEST.json", lambda path: path.write_text('{"files": {}, "step": 2}'), "does not list"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_chosen(
    tmp_path: Path, name: str, damage: Damage, cause: str
) -> None:
    save(tmp_path, snapshot(1))
    folder = save(tmp_path, snapshot(2))
    damage(folder / name)
    newest, causes = newest_valid(tmp_path)
    assert newest == tmp_path / "step_00000001"
    assert list(causes) == ["step_00000002"]
    assert cause in causes["step_00000002"]
    with pytest.raises(BadCheckpoint, match="step_00000002"):
        load(folder)


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "nowhere") == (None, {})


def test_the_newest_and_every_nth_are_kept(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, snapshot(step))
        retire(tmp_path, keep_last=2, keep_every=3, spare={"step_00000001"})
    assert sorted(checkpoints.step_of(path) for path in tmp_path.glob("step_*")) == [1, 3, 6, 7, 8]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_leaves_the_last_checkpoint_valid_and_nothing_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    save(tmp_path, snapshot(1))

    def full(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(BadOutput, match="No space left on device"):
        save(tmp_path, snapshot(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step_00000001"]
    assert invalid(tmp_path / "step_00000001") is None
    assert (tmp_path / "last").read_text() == "step_00000001\n"
