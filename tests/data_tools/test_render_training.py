"""Training data for SyncDreamer of meshes: targets and inputs rendered as two parts, exported, packed and read."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from core.cameras.poses import spherical
from core.cameras.rigs import rig
from core.data.packed_views import PackedViews
from core.errors import UserError
from core.training.randomness import generator
from core.views import read_views
from data_tools.pack.make import pack_all
from data_tools.render.make import render_all
from projects.syncdreamer.data import OfficialViews
from tests.data_tools.layouts import exported
from tests.data_tools.rendering import ball, contents, settings

RIGS = {"target": "syncdreamer", "input": "syncdreamer_input"}
NAMES = ("ball", "stuhl ü")


def rendered(folder: Path, kind: str, **changes) -> list[str]:
    """What became of each mesh."""
    small = {"size": 16, "supersample": 1, "workers": 1, "rig": RIGS[kind], "part": kind, **changes}
    out = folder.parent / "views"
    return [each["status"] for each in render_all(settings(input=str(folder), **small), out)]


@pytest.fixture
def meshes(tmp_path) -> Path:
    folder = tmp_path / "my möbel"
    folder.mkdir()
    for name in NAMES:
        ball(subdivisions=0).export(folder / f"{name}.glb")
    return folder


def test_targets_and_inputs_of_meshes_become_what_training_reads(meshes, tmp_path):
    out = tmp_path / "views"
    rendered(meshes, "target")
    with pytest.raises(UserError, match=r"holds the parts target, input; the object has target; give .* part="):
        exported("syncdreamer", out, tmp_path / "official")
    rendered(meshes, "input")
    exported("syncdreamer", out, tmp_path / "official")
    options = {"layout": "views", "mask": None, "objects_per_shard": 2, "workers": 1, "overwrite": False, "seed": 0}
    pack_all({**options, "root": str(out)}, tmp_path / "packed")
    folders = {f"{part}_dir": str(tmp_path / "official" / part) for part in RIGS}
    official = OfficialViews(**folders, uids=str(tmp_path / "official/uid_set.pkl"), image_size=16)
    packed = PackedViews(root=str(tmp_path / "packed"), split=None, image_size=16)
    assert len(official) == len(packed) == 2
    for index in range(2):
        one, other = (each.__getitem__(index, generator(1, index)) for each in (official, packed))
        assert torch.equal(one["target_pixels"], other["target_pixels"])
        assert torch.equal(one["input_pixels"], other["input_pixels"])
        assert_close(one["input_elevation"], other["input_elevation"], atol=1e-6, rtol=0)


def test_inputs_have_the_targets_azimuths_and_elevations_that_the_seed_draws(meshes, tmp_path):
    for part in RIGS:
        assert rendered(meshes, part) == ["ok", "ok"]
    elevations = []
    for name in NAMES:
        azimuth, elevation, distance = spherical(read_views(tmp_path / "views" / name / "input").cameras.centers)
        targets = spherical(rig("syncdreamer", size=16).centers)[0]
        assert_close(torch.stack([azimuth.cos(), azimuth.sin()]), torch.stack([targets.cos(), targets.sin()]))
        assert_close(distance, torch.full((16,), 1.5))
        assert math.radians(-10) <= elevation.min() < 0.1 < elevation.max() <= math.radians(40)
        elevations.append(elevation)
    assert not torch.allclose(*elevations), "each object has inputs of its own"
    assert rendered(meshes, "target", seed=1) == ["skipped", "skipped"], "nothing is drawn: the same pictures"
    with pytest.raises(UserError, match="holds views of other settings"):
        rendered(meshes, "input", seed=1)


def test_a_part_is_not_put_into_a_view_set(meshes, tmp_path):
    rendered(meshes, "target", part=None)
    before = contents(tmp_path / "views")
    with pytest.raises(UserError, match="is a view set itself and has no parts"):
        rendered(meshes, "input")
    assert contents(tmp_path / "views") == before
