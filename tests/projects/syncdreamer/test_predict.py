"""Predictions for held-out toybox objects: one view set each, whose origin the table knows."""

import json
import shutil

import pytest
import torch

from core.files import sha256_file
from core.models.bundled import WEIGHTS
from core.views import read_views
from data_tools.toybox.make import Recipe, make
from projects.benchmark import evaluate
from projects.syncdreamer import predict


def again_and_what_is_missing(root, out):
    """Started again it makes what is not there, or is there with other settings, and nothing else."""
    typed = ["+experiment=syncdreamer/toybox", f"root={root}", f"out={out}", "num_objects=2", "sample_steps=1"]
    first, second = (out / f"test-0000{number}" / "transforms.json" for number in (0, 1))
    before = first.stat().st_mtime_ns
    views = read_views(second.parent).images
    shutil.rmtree(second.parent)
    predict.main(typed)
    assert first.stat().st_mtime_ns == before
    assert (read_views(second.parent).images - views).abs().max() <= 2 / 255
    with pytest.raises(SystemExit) as stop:
        predict.main([*typed, "num_objects=1", "seed=1"])
    assert stop.value.code == 2 and first.stat().st_mtime_ns == before
    predict.main([*typed, "num_objects=1", "seed=1", "overwrite=true"])
    assert first.stat().st_mtime_ns > before
    predict.main([*typed, "num_objects=1", "overwrite=true"])


@pytest.mark.slow
def test_predictions_are_view_sets_that_do_not_depend_on_the_batch_and_can_be_scored(tmp_path):
    root = tmp_path / "toybox"
    list(make(root, Recipe(), {"train": 1, "val": 0, "test": 2}, num_workers=0))
    for batch in (1, 2):
        predict.main(["+experiment=syncdreamer/toybox", f"root={root}", f"out={tmp_path / str(batch)}", "num_objects=2",
                      "sample_steps=1", f"objects_per_batch={batch}"])  # fmt: skip
    for name in ("test-00000", "test-00001"):
        one, two = (read_views(tmp_path / str(batch) / name) for batch in (1, 2))
        assert len(one) == 16 and (one.images - two.images).abs().max() <= 2 / 255
    alone, other = (read_views(tmp_path / "1" / f"test-0000{number}").rgb() for number in (0, 1))
    assert not torch.allclose(alone, other, atol=0.1)
    again_and_what_is_missing(root, tmp_path / "1")
    out = tmp_path / "scores"
    evaluate.main([f"pred={tmp_path / '1'}", f"gt={root / 'test'}", "protocol=toybox", "protocol.num_objects=2",
                   f"out={out}"])  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert scores["summary"]["1"]["scored"] == "2 of 2"
    origin = scores["predictions"]["1"]  # publishing a card rests on this
    assert list(origin["weights"].values()) == [sha256_file(WEIGHTS / "syncdreamer_toybox" / "model.safetensors")]
    assert origin["command"] and origin["cpu_seconds"] > 0


def test_a_toybox_of_another_size_is_refused_before_anything_is_made(tmp_path, capsys):
    root = tmp_path / "toybox"
    list(make(root, Recipe(image_size=32, supersample=1), {"test": 1}, num_workers=0))
    with pytest.raises(SystemExit) as stop:
        predict.main(["+experiment=syncdreamer/toybox", f"root={root}", f"out={tmp_path / 'out'}", "num_objects=1"])
    assert stop.value.code == 2 and "32 x 32 pixels, the model of 64 x 64" in capsys.readouterr().err
    assert not (tmp_path / "out" / "test-00000").exists()
