"""The publish program: a run becomes half-precision weights with a card; scores must be of that very file."""

import json

import pytest
import torch
from safetensors.torch import load_file

from core.checkpoints.tensorfiles import read_metadata, write_tensors
from core.files import sha256_file
from core.models import bundled
from core.models.bundled import weights_file
from core.provenance import provenance
from data_tools.toybox.make import Recipe, make
from projects.syncdreamer import publish
from projects.syncdreamer.train import main as train

SYSTEM = "projects.syncdreamer.system.SyncDreamerSystem"


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    list(make(root, Recipe(seed=0), {"train": 2, "val": 1, "test": 1}, num_workers=0))
    return root


@pytest.fixture
def finished(toybox, tmp_path):
    """A run folder as a training leaves it."""
    folder = tmp_path / "run" / "weights"
    folder.mkdir(parents=True)
    tensors = {"denoiser.large": torch.rand(40, 40), "denoiser.small": torch.rand(3), "denoiser.count": torch.tensor(7)}
    write_tensors(folder / "model.safetensors", tensors)
    model = {"_target_": SYSTEM, "start": None, "denoiser": {"prediction": "velocity"}}
    config = {"out": str(tmp_path), "seed": 3, "data": {"root": str(toybox)}, "model": model}
    record = provenance(config, seed=3) | {"cpu_seconds": 55}
    (folder / "provenance.json").write_text(json.dumps(record))
    return tmp_path / "run"


def scores_of(path, sha256):
    path.write_text(
        json.dumps(
            {
                "protocol": {"hash": "abc"},
                "summary": {"SyncDreamer": {"PSNR (dB)": {"mean": 20.0}}, "mean": {"PSNR (dB)": {"mean": 9.0}}},
                "predictions": {
                    "mean": {"method": "mean"},
                    "SyncDreamer": {
                        "method": "SyncDreamer",
                        "weights": {"model.safetensors": sha256},
                        "command": "python -m predict",
                        "cpu_seconds": 4.0,
                    },
                },
                "objects": {"SyncDreamer": {"test-00000": {"status": "SCORED", "scores": {"PSNR (dB)": 20.0}}}},
            }
        )
    )
    return path


def test_a_run_is_published_and_then_again_with_its_scores(finished, tmp_path, monkeypatch):
    arguments = [f"run={finished}", f"publish={tmp_path / 'bundled' / 'toy'}", f"out={tmp_path / 'log'}"]
    publish.main(arguments)
    monkeypatch.setattr(bundled, "WEIGHTS", tmp_path / "bundled")
    path = weights_file("toy")
    published = load_file(path)
    types = {name: tensor.dtype for name, tensor in published.items()}
    assert types == {
        "denoiser.large": torch.float16,
        "denoiser.small": torch.float32,
        "denoiser.count": torch.int64,
    }
    assert read_metadata(path)["prediction"] == "velocity"
    card = json.loads((path.parent / "card.json").read_text())
    assert card["cpu_seconds"] == 55 and card["seed"] == 3 and "measured" not in card and "out" not in card["config"]
    assert card["files"] == {"model.safetensors": sha256_file(path)}

    publish.main([*arguments, f"scores={scores_of(tmp_path / 'scores.json', sha256_file(path))}"])
    again = json.loads((weights_file("toy").parent / "card.json").read_text())
    assert again["files"] == card["files"] and again["measured_with"] == "python -m predict"
    assert again["measured"]["SyncDreamer"]["PSNR (dB)"]["mean"] == 20 and again["cpu_seconds_per_object"] == 4


def test_scores_of_other_weights_leave_what_was_published(finished, tmp_path, capsys):
    arguments = [f"run={finished}", f"publish={tmp_path / 'toy'}", f"out={tmp_path / 'log'}"]
    publish.main(arguments)
    before = (tmp_path / "toy" / "card.json").read_text()
    no_scores = tmp_path / "list.json"
    no_scores.write_text("[]")
    others = scores_of(tmp_path / "s.json", "0" * 64)
    for scores, says in ((others, "other weights"), ("nowhere.json", "no scores"), (no_scores, "no scores")):
        with pytest.raises(SystemExit):
            publish.main([*arguments, f"scores={scores}"])
        assert says in capsys.readouterr().err
        assert (tmp_path / "toy" / "card.json").read_text() == before


def test_a_folder_that_holds_no_card_is_never_replaced(finished, tmp_path, capsys):
    own = tmp_path / "precious"
    own.mkdir()
    (own / "thesis.txt").write_text("all of it")
    with pytest.raises(SystemExit) as stop:
        publish.main([f"run={finished}", f"publish={own}", f"out={tmp_path / 'log'}"])
    assert stop.value.code == 2 and "choose another folder" in capsys.readouterr().err
    assert (own / "thesis.txt").read_text() == "all of it"


def test_a_run_of_another_network_is_refused(finished, tmp_path, capsys):
    record = finished / "weights" / "provenance.json"
    record.write_text(record.read_text().replace(SYSTEM, "projects.toybox.vae.VAETraining"))
    with pytest.raises(SystemExit) as stop:
        publish.main([f"run={finished}", f"publish={tmp_path / 'toy'}", f"out={tmp_path / 'log'}"])
    assert stop.value.code == 2 and "give a run folder of projects.syncdreamer.train" in capsys.readouterr().err
    assert not (tmp_path / "toy").exists()


@pytest.mark.slow
def test_the_card_of_a_training_that_started_from_another_names_both(toybox, tmp_path):
    settings = [
        "+experiment=syncdreamer/toybox", f"data.root={toybox}", "trainer.max_steps=1", "data.batch_size=1",
        "trainer.val_every=null", "trainer.preview_every=null", "logger.tensorboard=false", "trainer.precision=32",
    ]  # fmt: skip
    train([*settings, f"out={tmp_path / 'first'}"])
    start = tmp_path / "first" / "weights" / "model.safetensors"
    train([*settings, f"out={tmp_path / 'second'}", f"model.start={start}"])
    publish.main([f"run={tmp_path / 'second'}", f"publish={tmp_path / 'toy'}", f"out={tmp_path / 'log'}"])
    card = json.loads((tmp_path / "toy" / "card.json").read_text())
    record = json.loads(start.with_name("provenance.json").read_text())
    assert card["started_from"] == {
        "weights": str(start),
        "sha256": sha256_file(start),
        "command": record["command"],
        "cpu_seconds": record["cpu_seconds"],
    }
    assert card["cpu_seconds"] > 0 and len(card["data_sha256"]) == 64
