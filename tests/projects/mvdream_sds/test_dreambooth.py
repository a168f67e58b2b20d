"""A subject of a few pictures is learnt, and the class and the old weights are kept near."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from torch.utils.data import default_collate

from core.errors import BadConfig, BadData
from core.images import write_image
from projects.mvdream_sds.dreambooth import DreamBoothSystem, SubjectImages
from tests.projects.mvdream_sds import tiny_views as tiny


@pytest.fixture
def before(tmp_path):
    """Weights to start from."""
    made = tiny.system()
    save_file(made.export(made.state_dict()), tmp_path / "model.safetensors", metadata=made.export_metadata())
    return str(tmp_path / "model.safetensors")


@pytest.fixture
def folders(tmp_path):
    """Pictures of a subject, and of its class."""
    draw = torch.Generator().manual_seed(0)
    for folder, count in (("subject", 2), ("class", 3)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            write_image(tmp_path / folder / f"{number}.png", torch.rand(3, 40, 36, generator=draw))
    return {"root": str(tmp_path / "subject"), "prompt": "a red ball", "image_size": tiny.SIZE}


def with_class(folders, **more):
    root = str(Path(folders["root"]).with_name("class"))
    return SubjectImages(**folders, class_root=root, class_prompt="a ball", num_class_images=3, **more)


def batch_of(items):
    return default_collate([items.__getitem__(i, torch.Generator().manual_seed(i)) for i in range(len(items))])


def learn(made, batch, steps, lr=2e-3):
    """Trains, and gives the terms at the same draws before and after."""

    def terms():
        with torch.no_grad():
            found = [made.loss(batch, torch.Generator().manual_seed(90 + i)) for i in range(4)]
        return {name: sum(each[name] for each in found).item() / 4 for name in found[0]}

    first, optimizer = terms(), torch.optim.Adam(made.parameter_groups(lr))
    for step in range(steps):
        loss = made.loss(batch, torch.Generator().manual_seed(step))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return first, terms()


@pytest.mark.slow
def test_the_subject_is_learnt_and_its_class_is_kept(before, folders):
    batch = batch_of(with_class(folders))
    first, last = learn(tiny.system(DreamBoothSystem, start=before, preservation=0.0), batch, 25)
    assert last["loss_subject"] < 0.9 * first["loss_subject"]
    assert last["loss_class"] < 1.02 * first["loss_class"]


@pytest.mark.slow
def test_the_weights_stay_the_nearer_the_more_that_counts(before, folders):
    items, distances = SubjectImages(**folders), []
    for weight in (0.001, 1e3):
        made = tiny.system(DreamBoothSystem, start=before, preservation=weight, prior_weight=0.0)
        first, last = learn(made, batch_of(items), 4)
        distances.append(last["distance"])
        now = made.trained()
        total = sum((now[name] - value).abs().sum() for name, value in made.before.items())
        assert first["distance"] == 0 and last["distance"] > 0
        assert_close(last["distance"], (total / sum(value.numel() for value in now.values())).item())
    assert distances[1] < 0.7 * distances[0]


def test_the_whole_unet_learns_and_what_reads_cameras_does_not(before):
    made = tiny.system(DreamBoothSystem, start=before)
    names = {name for name, _ in made.denoiser.unet.named_parameters()}
    assert set(made.trained()) == {f"denoiser.unet.{name}" for name in names}
    assert not made.has_idle_parameters


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"start": None}, "model.start=None.*give its weights"),
        ({"preservation": -1.0}, "preservation=-1"),
        ({"prior_weight": -1.0}, "prior_weight=-1"),
    ],
)
def test_settings_without_sense_are_refused(before, options, says):
    with pytest.raises(BadConfig, match=says):
        tiny.system(DreamBoothSystem, **({"start": before} | options))


@pytest.mark.slow
def test_a_loss_of_the_class_needs_its_pictures_and_pictures_need_their_loss(before, folders):
    with pytest.raises(BadConfig, match=r"prior_weight=1.0 needs pictures of the class: set data.train.class_root"):
        tiny.system(DreamBoothSystem, start=before).loss(batch_of(SubjectImages(**folders)), torch.Generator())
    with pytest.raises(BadConfig, match=r"prior_weight=0.0 leaves data.train.class_root unread"):
        made = tiny.system(DreamBoothSystem, start=before, prior_weight=0.0)
        made.loss(batch_of(with_class(folders)), torch.Generator())
    with pytest.raises(BadData, match="has 3 pictures, num_class_images=100"):
        SubjectImages(**folders, class_root=str(Path(folders["root"]).with_name("class")), class_prompt="a ball")
    with pytest.raises(BadConfig, match="give both, or neither"):
        SubjectImages(**folders, class_prompt="a ball")
    with pytest.raises(BadConfig, match="prompt is empty"):
        SubjectImages(**(folders | {"prompt": " "}))
