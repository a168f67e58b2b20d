"""Ctrl-C in the middle of predict and of publish: exit code 130, and nothing half-written."""

import json
import os
import signal

import pytest
import torch

from core.checkpoints import publishing
from core.checkpoints.tensorfiles import write_tensors
from core.provenance import provenance
from core.views import validate_views
from projects.syncdreamer import prediction, publish
from tests.projects.syncdreamer import untrained


def ctrl_c_at_call(number, function):
    """`function`, which the user interrupts at its so-many-th call, when half of its work is done."""
    calls = []

    def interrupted(*given, **options):
        calls.append(1)
        result = function(*given, **options)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    return interrupted


def interrupted(capsys, program, *arguments):
    with pytest.raises(SystemExit) as stop:
        program(*arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 130 and "interrupted" in said and "Traceback" not in said


@pytest.mark.slow
def test_a_prediction_keeps_its_whole_objects_and_goes_on_with_the_others(tmp_path, capsys, monkeypatch):
    untrained.use(monkeypatch)
    untrained.toybox(tmp_path / "toybox", 2)
    out = tmp_path / "out"
    given = (tmp_path / "toybox", out, "num_objects=2", "objects_per_batch=1")
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "sample_views", ctrl_c_at_call(2, prediction.sample_views))
        interrupted(capsys, untrained.predicted, *given)
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"test-00000"}
    assert validate_views(out / "test-00000") == [] and not list(out.rglob(".tmp-*"))
    kept = (out / "test-00000" / "transforms.json").stat().st_mtime_ns
    untrained.predicted(*given)
    assert (out / "test-00000" / "transforms.json").stat().st_mtime_ns == kept
    assert validate_views(out / "test-00001") == []


def test_a_publication_leaves_what_was_published_before(tmp_path, capsys, monkeypatch):
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    (tmp_path / "index.json").write_text(json.dumps({"sha256": "d" * 64, "splits": {}}))
    write_tensors(weights / "model.safetensors", {"denoiser.x": torch.rand(3)})
    model = {"_target_": "projects.syncdreamer.system.SyncDreamerSystem", "start": None}
    model |= {"denoiser": {"prediction": "velocity"}}
    config = {"out": str(tmp_path), "seed": 3, "data": {"root": str(tmp_path)}, "model": model}
    (weights / "provenance.json").write_text(json.dumps(provenance(config, seed=3) | {"cpu_seconds": 55}))
    given = [f"run={tmp_path / 'run'}", f"publish={tmp_path / 'shelf' / 'toy'}", f"out={tmp_path / 'log'}"]
    for before in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(publishing, "write_tensors", ctrl_c_at_call(1, write_tensors))
            interrupted(capsys, publish.main, given)
        assert [path.name for path in (tmp_path / "shelf").iterdir()] == (["toy"] if before else [])
        if not before:
            publish.main(given)
            published = {path.name: path.read_bytes() for path in (tmp_path / "shelf" / "toy").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "shelf" / "toy").iterdir()} == published
