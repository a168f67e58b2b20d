"""Predictions for held-out toybox objects: which images are given, where the views stand, and what they depend on."""

import json
import shutil

import pytest
import torch
from omegaconf import DictConfig

from core.batch import RESULTS
from core.data.free_views import FreeViews
from core.data.toybox import open_pack
from core.errors import BadConfig, UserError
from core.views import TRANSFORMS, read_views
from data_tools.toybox.free import write_free
from data_tools.toybox.make import Recipe, make
from projects.viewfusion import predict, prediction
from projects.viewfusion.poses import to_cameras
from projects.viewfusion.prediction import Task, free, of_views, ring, views_of
from projects.viewfusion.settings import Settings
from tests.projects.untrained import settings_of
from tests.projects.viewfusion.small import SIZE, fusion, pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One object of the toybox, with its fixed and its random cameras."""
    root = tmp_path_factory.mktemp("data")
    recipe = Recipe(image_size=SIZE, supersample=1)
    list(make(root / "toybox", recipe, {"train": 0, "val": 0, "test": 1}, num_workers=0))
    list(write_free(root / "toybox", root / "free", recipe, num_views=5, num_workers=0))
    return root


def program(*typed: str) -> DictConfig:
    return DictConfig(settings_of(predict.main.program, ["+experiment=viewfusion/toybox", *typed]))


def config(data, **changes) -> DictConfig:
    given = {"root": str(data / "toybox"), "free_root": str(data / "free"), "split": "test", "num_inputs": 2}
    return DictConfig(given | changes)


def test_the_ring_is_syncdreamers_and_its_inputs_stand_where_they_were_rendered(data):
    sha256, names, task_of = ring(config(data))
    task, pack = task_of(0), open_pack(data / "toybox", "test")
    target, given = (read_views(data / "toybox" / "test" / names[0] / part) for part in ("target", "input"))
    assert sha256 == pack.sha256 and len(task.targets) == 16 and not task.given
    for cameras, poses in ((target.cameras, task.targets), (given.cameras[[0, 8]], task.inputs)):
        assert torch.allclose(to_cameras(poses, SIZE).poses, cameras.poses, atol=1e-5)
        assert torch.allclose(to_cameras(poses, SIZE).intrinsics, cameras.intrinsics, atol=1e-4)
    assert torch.equal(task.pixels, pack.pixels(0, [16, 24]))


def test_free_targets_stand_where_they_were_rendered_and_begin_with_the_inputs(data):
    _, names, task_of = free(config(data))
    task, views = task_of(0), read_views(data / "free" / "test" / "test-00000")
    assert names == ["test-00000"] and task.given == [0, 1] and torch.equal(task.inputs, task.targets[:2])
    assert torch.allclose(to_cameras(task.targets, SIZE).poses, views.cameras.poses, atol=1e-5)
    assert torch.equal(task.pixels, FreeViews(root=data / "free", split="test").pixels(0, [0, 1]))


def of_view_sets(data, tmp_path, content, **changes):
    (tmp_path / "given.json").write_text(content)
    model = {"denoiser": {"image_size": SIZE}}
    changes = {"root": str(data / "free" / "test"), "given": str(tmp_path / "given.json"), "alpha": "cut"} | changes
    return of_views(config(data, model=model, **changes))


def test_of_any_view_sets_those_views_are_given_that_the_list_names(data, tmp_path):
    """As in ViewFusion's list of test objects: a number, or several."""
    views = read_views(data / "free" / "test" / "test-00000")
    for content, given in (('{"test-00000": 3}', [3]), ('{"test-00000": [4, 0]}', [4, 0])):
        sha256, names, task_of = of_view_sets(data, tmp_path, content)
        task = task_of(0)
        assert names == ["test-00000"] and task.given == given and len(sha256) == 64
        assert torch.allclose(to_cameras(task.targets, SIZE).poses, views.cameras.poses, atol=1e-5)
        assert torch.equal(task.inputs, task.targets[given])
        white = views.images[given, 3:] == 0
        expected = torch.where(white, torch.ones(()), views.images[given, :3])
        assert torch.allclose(task.pixels, expected * 2 - 1, atol=1e-6)
    _, _, task_of = of_view_sets(data, tmp_path, "{}", given=None)
    assert task_of(0).given == [0, 1]  # the first num_inputs


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"test-00000": 5}', "has 5 views; \\[5\\] cannot be given"),
        ('{"test-00000": [0, 1, 2, 3, 4]}', "with others to ask for"),
        ('{"test-00000": [1, 1]}', "list different views' numbers"),
        ('{"shoe": 1}', "names 'shoe' and 0 more that root= has not"),
        ("[1]", "no JSON of"),
    ],
)
def test_a_list_that_cannot_be_is_refused(content, words, data, tmp_path):
    with pytest.raises(UserError, match=words):
        of_view_sets(data, tmp_path, content)[2](0)


def test_each_target_by_a_way_of_its_own_does_not_depend_on_the_others(data):
    _, _, task_of = free(config(data, num_inputs=1))
    task, model = task_of(0), fusion(eta=0.0)
    one = Task(task.name, 0, task.pixels, task.inputs, task.targets[:2], [0])
    alone = Settings(way="alone", way_step_deg=60.0)
    assert torch.equal(views_of(model, alone, task)[1], views_of(model, alone, one)[1])


def test_more_inputs_than_there_are_views_are_refused(data):
    with pytest.raises(BadConfig, match="num_inputs=17"):
        ring(config(data, num_inputs=17))
    with pytest.raises(BadConfig, match="num_inputs=5"):
        free(config(data, num_inputs=5))


def test_inputs_pass_unchanged_and_views_depend_on_their_object_and_seed_alone(data):
    _, _, task_of = free(config(data))
    task = task_of(0)
    model = fusion()
    first = views_of(model, Settings(), task)
    assert torch.allclose(first[:2], (task.pixels + 1) / 2) and first.shape == (5, 3, SIZE, SIZE)
    assert first.isfinite().all() and first.min() >= 0 and first.max() <= 1
    assert torch.equal(views_of(model, Settings(), task), first)
    assert not torch.allclose(views_of(model, Settings(seed=1), task)[2:], first[2:], atol=1e-3)
    other = Task(task.name, 1, task.pixels, task.inputs, task.targets, task.given)
    assert not torch.allclose(views_of(model, Settings(), other)[2:], first[2:], atol=1e-3)


def test_each_view_is_written_at_its_own_place(data):
    """Views are made in another order than they are asked for: nearest first."""
    _, _, task_of = free(config(data, num_inputs=1))
    task = task_of(0)
    order = torch.tensor([0, 3, 1, 4, 2])
    turned = Task(task.name, 0, task.pixels, task.inputs, task.targets[order], [0])
    model = fusion(fusion="zero123", eta=0.0)
    model.view = lambda references, draws: pictures(1)[0] * 0 + references.context.mean()  # a picture of its pose
    straight, mixed = (views_of(model, Settings(), each) for each in (task, turned))
    assert torch.allclose(mixed[1:], straight[order][1:], atol=1e-6)
    assert len({round(float(view.mean()), 5) for view in straight[1:]}) == 4


def test_predicting_goes_on_past_a_bad_object_and_fails_at_the_end(data, tmp_path, monkeypatch):
    root = tmp_path / "views"
    for name in ("bad", "good"):
        shutil.copytree(data / "free" / "test" / "test-00000", root / name)
    cut = json.loads((root / "bad" / TRANSFORMS).read_text())
    cut["frames"] = cut["frames"][:1]
    (root / "bad" / TRANSFORMS).write_text(json.dumps(cut))
    monkeypatch.setattr(prediction, "load_fusion", lambda *given: fusion())
    monkeypatch.setattr(prediction, "weights_file", lambda *given, **more: root / "good" / TRANSFORMS)
    cfg = program(f"root={root}", "targets=views", f"out={tmp_path / 'out'}", f"model.denoiser.image_size={SIZE}")
    with pytest.raises(UserError, match="1 of 2"):
        prediction.predict(cfg)
    assert len(read_views(tmp_path / "out" / "good")) == 5 and not (tmp_path / "out" / "bad").exists()
    said = [json.loads(line) for line in (tmp_path / "out" / RESULTS).read_text().splitlines()]
    assert {record["input"]: record["status"] for record in said} == {"bad": "failed", "good": "ok"}


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("targets=circle", "ring, free"),
        ("num_inputs=0", "num_inputs"),
        ("fusion=mean", "interpolated_denoising"),
        ("targets=views given=list.json num_inputs=2", "leave one away"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(typed, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        predict.main(["+experiment=viewfusion/toybox", f"out={tmp_path / 'out'}", *typed.split()])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1
