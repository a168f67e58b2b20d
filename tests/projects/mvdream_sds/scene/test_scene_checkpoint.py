"""Scenes of threestudio: its names and ours, both ways, and reading its Lightning checkpoints."""

from typing import Any

import pytest
import torch

from core.compose import composed
from core.config import instantiate
from core.errors import BadCheckpoint
from core.fields.hashgrid import ProgressiveBandHashGrid
from core.program import Program
from core.settings import settings
from projects.mvdream_sds.scene.checkpoint import load_official_scene, official_scene, scene_table
from projects.mvdream_sds.scene.geometry import ImplicitVolume
from projects.mvdream_sds.scene.loading import load_published
from projects.mvdream_sds.scene.scene import Scene
from tests.golden_fixture import load
from tests.projects.mvdream_sds.scene.scenes import geometry_of, scene_of

CONFIGS = {"mvdream-sd21-scene": "paper", "mvdream-sd21-shading-scene": "paper_shading"}
SMALL, _ = load("mvdream_sds", "renderer")


def _full_size(experiment: str) -> Scene:
    program = Program("mvdream_sds", None, "")
    overrides = [f"+experiment=mvdream_sds/{experiment}", "prompt=x"]
    with torch.device("meta"):
        return instantiate(settings(program, composed(program, overrides)).scene)


def _small(**changes: Any) -> Scene:
    geometry: ImplicitVolume = geometry_of(SMALL["geometry"], **changes)
    scene = scene_of(geometry)
    draw = torch.Generator().manual_seed(0)
    scene.renderer.occupancy.values.copy_(torch.rand(32**3, generator=draw))
    scene.renderer.occupancy.occupied.copy_(torch.rand(32**3, generator=draw) < 0.1)
    return scene


@pytest.mark.parametrize("name", CONFIGS)
def test_the_published_configurations_have_the_published_tensors(name):
    wanted = load("mvdream_sds", f"{name}.keys")[0]["keys"]
    scene = _full_size(CONFIGS[name])
    official = official_scene(scene)
    assert {key: list(value.shape) for key, value in official.items()} == wanted
    ours = {key: tuple(value.shape) for key, value in scene.state_dict().items()}
    real = {key: value for key, value in official.items() if not value.is_meta}  # what reading compares
    back = scene_table(scene).read({key: real.get(key, torch.empty(wanted[key], device="meta")) for key in wanted})
    assert {key: tuple(value.shape) for key, value in back.items()} == ours


def test_a_lightning_checkpoint_of_a_scene_is_read_without_its_guidance(tmp_path):
    scene, other = _small(), _small()
    state = {**official_scene(scene), "guidance.model.betas": torch.zeros(3)}
    torch.save({"state_dict": state, "epoch": 0, "global_step": 10000}, tmp_path / "last.ckpt")
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.renderer.occupancy.occupied.fill_(False)
    load_official_scene(other, tmp_path / "last.ckpt")
    for key, value in scene.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_a_published_scene_shows_all_levels_of_a_progressive_grid(tmp_path, monkeypatch):
    scene = _small()
    torch.save({"state_dict": official_scene(scene)}, tmp_path / "last.ckpt")
    grid = scene.geometry.encoding
    bands = ProgressiveBandHashGrid(grid=grid, start_level=1, start_step=0, update_steps=100)
    scene.geometry.encoding = bands
    monkeypatch.setattr("projects.mvdream_sds.scene.loading.build_scene", lambda settings: scene)
    assert bands.active == 1
    load_published(tmp_path / "last.ckpt", {})
    assert bands.active == len(grid.levels)


def test_a_scene_of_another_size_is_refused_with_the_setting_to_change(tmp_path):
    torch.save({"state_dict": official_scene(_small(radius=1.0))}, tmp_path / "last.ckpt")
    with pytest.raises(BadCheckpoint, match=r"geometry\.radius"):
        load_official_scene(_small(radius=0.5), tmp_path / "last.ckpt")
    torch.save({"state_dict": official_scene(_small(feature_dim=4))}, tmp_path / "other.ckpt")
    with pytest.raises(BadCheckpoint, match="feature_network"):
        load_official_scene(_small(), tmp_path / "other.ckpt")


def test_every_part_of_a_scene_has_its_own_rate():
    scene = _small()
    groups = scene.parameter_groups({"geometry.encoding": 0.01, "geometry.density_network": 0.001, "background": 0.001})
    assert {group["name"]: group["lr"] for group in groups}["geometry.encoding"] == 0.01
    assert sum(len(group["params"]) for group in groups) == 1 + 2 + 3
    with pytest.raises(ValueError, match="its parts are geometry"):
        scene.parameter_groups({"geometri": 0.1})
    with pytest.raises(ValueError, match="another group"):
        scene.parameter_groups({"geometry": 0.1, "geometry.encoding": 0.2})
