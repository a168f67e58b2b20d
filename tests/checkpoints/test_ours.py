"""Files of ours: a system gets all of one, and never a network that nobody trained."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from core.checkpoints.ours import is_ours, load_ours
from core.checkpoints.publishing import publish_denoiser
from core.checkpoints.tensorfiles import read_metadata, write_tensors
from core.errors import BadCheckpoint, BadData, MissingWeights
from core.training.denoising import DenoiserModule

TARGET = "projects.somewhere.system.System"


class Denoiser(nn.Linear):
    """Of two numbers; `joint` where it knows such a choice."""

    def __init__(self, prediction: str = "noise", joint: bool | None = None) -> None:
        super().__init__(2, 2)
        self.prediction = prediction
        if joint is not None:
            self.joint = joint


class System(DenoiserModule):
    def __init__(self, *, folder: Path | None = None, **denoiser) -> None:
        super().__init__()
        self.denoiser, self.latents, self.text_encoder = Denoiser(**denoiser), nn.Linear(3, 1), nn.Linear(1, 1)
        for part in (self.latents, self.text_encoder):
            part.weights_folder = folder  # as core.models.bundled marks what it reads


def written(system: System, path: Path) -> Path:
    """The file that a training leaves."""
    write_tensors(path, system.export(system.state_dict()), system.export_metadata())
    return path


def test_networks_that_stand_in_no_folder_travel_with_the_denoiser(tmp_path):
    trained, made = System(), System()
    load_ours(made, written(trained, tmp_path / "model.safetensors"), what="toy")
    assert_close(made.state_dict(), trained.state_dict(), rtol=0, atol=0)


def test_networks_of_a_folder_stay_as_they_were_read(tmp_path):
    path = written(System(folder=tmp_path), tmp_path / "model.safetensors")
    made = System(folder=tmp_path)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    load_ours(made, path, what="toy")
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"denoiser.weight", "denoiser.bias"}


def test_a_file_without_networks_that_nothing_else_provides_is_refused(tmp_path):
    path = written(System(folder=tmp_path), tmp_path / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"holds no latents and no text_encoder, and model.latents and model.text_"):
        load_ours(System(), path, what="toy")
    state = {**System().export(System().state_dict()), "latents.bias": torch.ones(2)}
    write_tensors(path, state)
    with pytest.raises(BadCheckpoint, match="mismatched in shape"):
        load_ours(System(), path, what="toy")


@pytest.mark.parametrize(("trained", "read"), [(True, False), (False, True)])
def test_weights_of_views_that_saw_each_other_are_no_others(trained, read, tmp_path):
    path = written(System(joint=trained), tmp_path / "model.safetensors")
    load_ours(System(joint=trained), path, what="toy")
    words = f"joint={str(read).lower()} reads them .*; set model.denoiser.joint={str(trained).lower()}"
    with pytest.raises(BadCheckpoint, match=words):
        load_ours(System(joint=read), path, what="toy")


def test_a_file_that_does_not_say_so_is_joint(tmp_path):
    path = written(System(), tmp_path / "model.safetensors")
    assert "joint" not in read_metadata(path)
    load_ours(System(joint=True), path, what="toy")
    with pytest.raises(BadCheckpoint, match=r"set model\.denoiser\.joint=true"):
        load_ours(System(joint=False), path, what="toy")


def test_what_is_ours_is_seen_in_the_header(tmp_path):
    assert is_ours(written(System(), tmp_path / "model.safetensors"))
    torch.save({"denoiser.weight": torch.ones(1)}, tmp_path / "model.ckpt")
    assert not is_ours(tmp_path / "model.ckpt")
    with pytest.raises(MissingWeights, match=r"no weights file .*nothing.ckpt; look in the attic"):
        is_ours(tmp_path / "nothing.ckpt", advice="look in the attic")


def publish(folder: Path, joint: bool = True, target: str = TARGET, data: dict | None = None) -> Path:
    """The folder of a published run."""
    weights = folder / "run" / "weights"
    weights.mkdir(parents=True)
    written(System(folder=folder, joint=joint), weights / "model.safetensors")
    (folder / "index.json").write_text(json.dumps({"sha256": "d" * 64, "splits": {}}))
    model = {"_target_": target, "start": None, "denoiser": {"prediction": "noise", "joint": joint}}
    facts = dict.fromkeys(("command", "code", "config_hash", "seed", "versions", "date")) | {"cpu_seconds": 1}
    record = facts | {"config": {"model": model, "data": data or {"root": str(folder)}}}
    (weights / "provenance.json").write_text(json.dumps(record))
    run, out = str(folder / "run"), str(folder / "toy")
    publish_denoiser(
        run=run,
        publish=out,
        scores=None,
        system=TARGET,
        what="a toy",
        denoiser={"joint": True},
        others={"taught": "a subject"},
    )
    return folder / "toy"


def test_published_weights_say_whether_their_views_saw_each_other(tmp_path):
    assert read_metadata(publish(tmp_path) / "model.safetensors")["joint"] == "true"


def test_a_model_that_was_taught_by_pictures_is_published_as_what_it_is(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "0.png").write_bytes(b"a dog")
    folder = publish(tmp_path, target="taught", data={"train": {"root": str(tmp_path / "dog")}})
    card = json.loads((folder / "card.json").read_text())
    assert card["what"] == "a subject" and len(card["data_sha256"]) == 64


def test_a_model_that_the_card_would_call_another_is_not_published(tmp_path):
    with pytest.raises(BadData, match=r"has model.denoiser.joint=false, and the card would say otherwise"):
        publish(tmp_path, joint=False)
    assert not (tmp_path / "toy").exists()
