"""Meshes against true ones."""

import shutil

import pytest
import torch

from core.errors import BadData
from core.mesh.export import write_mesh
from core.types import Mesh
from projects.benchmark.surfaces import compare, sphere


def a_box():
    import trimesh

    box = trimesh.creation.box((1.0, 0.4, 0.4))
    return Mesh(torch.from_numpy(box.vertices).float(), torch.from_numpy(box.faces).long())


@pytest.fixture
def folders(tmp_path):
    for part in ("pred", "truth"):
        for name in ("box", "ball"):
            (tmp_path / part / name).mkdir(parents=True)
            write_mesh(tmp_path / part / name / "mesh.ply", a_box() if name == "box" else sphere())
    return tmp_path / "pred", tmp_path / "truth"


def test_the_true_mesh_is_nearer_than_a_sphere_unless_it_is_one(folders):
    result = compare(*folders, num_points=4000, seed=0)
    box, ball = result["objects"]["box"], result["objects"]["ball"]
    assert box["mesh"] < 0.02 < 0.1 < box["sphere"]
    assert ball["mesh"] == pytest.approx(ball["sphere"], rel=0.05)


def test_an_object_without_a_mesh_is_listed_as_missing(folders):
    (folders[0] / "ball" / "mesh.ply").unlink()
    result = compare(*folders, num_points=500, seed=0)
    assert result["missing"] == ["ball"] and list(result["objects"]) == ["box"]


def test_nothing_to_compare_is_said(folders):
    shutil.rmtree(folders[1])
    with pytest.raises(BadData, match="true mesh"):
        compare(*folders, num_points=500, seed=0)
