"""The trivial answers, laid out as predictions."""

import pytest
import torch

from core.data.toybox import open_pack
from core.errors import BadData, BadOutput
from core.mesh.export import read_mesh
from core.views import read_views
from data_tools.toybox.make import Recipe, make
from projects.benchmark.baselines import main
from projects.benchmark.trivial import write_baselines


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    root = tmp_path_factory.mktemp("toybox")
    list(make(root, Recipe(), {"train": 3, "val": 0, "test": 2}, num_workers=0))
    return root


def test_each_answer_is_a_view_set_per_object_relative_to_the_input(toybox, tmp_path):
    write_baselines(toybox, "test", tmp_path, input_view=5)
    test, train = open_pack(toybox, "test"), open_pack(toybox, "train")
    everything = torch.cat([train.pixels(number, list(range(16))) for number in range(3)])
    for number, uid in enumerate(test.uids):
        given = (test.pixels(number, [16 + 5])[0] + 1) / 2
        made = {name: read_views(tmp_path / name / uid) for name in ("input-repeated", "mean-view", "nearest-object")}
        assert all(len(views) == 16 for views in made.values())
        assert torch.allclose(made["input-repeated"].rgb(), given.expand(16, -1, -1, -1), atol=1e-6)
        assert torch.allclose(made["mean-view"].rgb()[7], (everything.mean(dim=0) + 1) / 2, atol=1 / 255)
        candidates = [(train.pixels(n, [16 + s])[0] - given * 2 + 1).norm() for n in range(3) for s in range(16)]
        nearest, start = divmod(int(torch.stack(candidates).argmin()), 16)
        expected = train.pixels(nearest, [(start + view) % 16 for view in range(16)])
        assert torch.allclose(made["nearest-object"].rgb(), (expected + 1) / 2, atol=1e-6)
        radii = read_mesh(tmp_path / "sphere" / uid / "mesh.ply").vertices.norm(dim=1)
        assert torch.allclose(radii, torch.full_like(radii, 0.5), atol=1e-5)


def test_a_view_that_is_not_there_and_missing_data_are_refused(toybox, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"root={toybox}", f"out={tmp_path / 'out'}", "input_view=16", "--dry-run"])
    assert stop.value.code == 2 and "input_view=16" in capsys.readouterr().err
    with pytest.raises(BadData, match="no toybox"):
        write_baselines(tmp_path / "nowhere", "test", tmp_path)


def test_answers_replace_nothing_unless_told(toybox, tmp_path):
    write_baselines(toybox, "test", tmp_path)
    with pytest.raises(BadOutput, match="overwrite=true"):
        write_baselines(toybox, "test", tmp_path)
    write_baselines(toybox, "test", tmp_path, overwrite=True)
