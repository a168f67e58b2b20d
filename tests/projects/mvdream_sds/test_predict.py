"""Predictions from held-out captions: where the views stand, what they depend on, and that they are made once."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from core.compose import composed
from core.config import plain
from core.data.toybox import open_pack
from core.errors import BadConfig, BadOutput
from core.settings import settings
from core.views import read_views
from data_tools.toybox.make import Recipe, make
from projects.mvdream_sds import predict, prediction
from tests.projects.mvdream_sds.generating import UNET, loaded, weights

PLAIN = ["+experiment=mvdream_sds/views_toybox", f"model.denoiser.unet={UNET}", "sample_steps=1", "device=cpu"]


@functools.cache
def base() -> dict[str, Any]:
    return plain(settings(predict.main.program, composed(predict.main.program, PLAIN)))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    list(make(root / "toybox", Recipe(supersample=1), {"train": 0, "val": 0, "test": 2}, num_workers=0))
    weights(root)
    return root


@pytest.fixture
def run(monkeypatch, data, tmp_path):
    """Runs the program, and returns its folder."""
    monkeypatch.setattr(prediction, "load_system", lambda model, settings, paths, device: loaded(paths[0]))

    def predicted(name: str, **changes: Any) -> Path:
        given = {"root": str(data / "toybox"), "weights": str(data / "model.safetensors"), "num_objects": 2}
        config = copy.deepcopy(base()) | given | {"out": str(tmp_path / name)} | changes
        predict.check(config)
        prediction.predict(OmegaConf.create(config))
        return tmp_path / name

    return predicted


def test_views_are_of_the_captions_and_stand_where_the_true_ones_do(run, data):
    out, pack = run("both"), open_pack(data / "toybox", "test")
    for number, uid in enumerate(pack.uids):
        made, true = read_views(out / uid), read_views(data / "toybox" / "test" / uid / "target")
        assert made.caption == pack.captions[number] and made.images.shape == (4, 4, 64, 64)
        assert torch.allclose(made.cameras.poses, true.cameras[[0, 4, 8, 12]].poses, atol=1e-5)
        assert torch.allclose(made.cameras.intrinsics, true.cameras[[0, 4, 8, 12]].intrinsics, atol=1e-3)


def test_an_objects_views_depend_on_its_seed_and_not_on_the_other_objects(run):
    both, one, other = run("both"), run("one", num_objects=1), run("other", seed=2, num_objects=1)
    first = [read_views(folder / "test-00000").images for folder in (both, one, other)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert not (one / "test-00001").exists()
    assert not torch.equal(first[0], read_views(both / "test-00001").images)


def test_what_is_there_is_kept_and_what_has_other_settings_is_refused(run, capsys):
    out = run("again", num_objects=1)
    before = (out / "test-00000" / "provenance.json").stat().st_mtime_ns
    run("again")
    assert "1 objects made; 1 were there" in capsys.readouterr().err
    assert (out / "test-00000" / "provenance.json").stat().st_mtime_ns == before
    with pytest.raises(BadOutput, match="overwrite=true"):
        run("again", cfg_scale=1.0, negative_prompt="a cube")
    assert "negative_prompt is not read" in capsys.readouterr().err


def test_more_captions_than_there_are_and_faulty_sampling_are_refused(run):
    with pytest.raises(BadConfig, match="num_objects=3"):
        run("more", num_objects=3)
    with pytest.raises(BadConfig, match="scheduler"):
        run("more", scheduler="dimm")
    with pytest.raises(BadConfig, match="use_camera=false makes images from nowhere"):
        run("more", use_camera=False)
