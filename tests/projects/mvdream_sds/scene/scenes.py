"""Scenes of a fixture's own configuration, with weights by rule W through the reader of official checkpoints."""

from typing import Any

import torch
from torch import Tensor

from core.checkpoints.rename import load_strict
from core.fields.hashgrid import HashGrid
from projects.mvdream_sds.scene.background import Background, NeuralEnvironmentMap
from projects.mvdream_sds.scene.checkpoint import official_scene, scene_table
from projects.mvdream_sds.scene.geometry import ImplicitVolume
from projects.mvdream_sds.scene.materials import Material, NoMaterial
from projects.mvdream_sds.scene.occupancy import SceneOccupancy
from projects.mvdream_sds.scene.renderer import VolumeRenderer
from projects.mvdream_sds.scene.scene import Scene
from tests.golden_fixture import rule_w

BY_RULE = ("geometry.", "background.network.")  # all else follows from settings, or is the occupancy


def geometry_of(config: dict[str, Any], **changes: Any) -> ImplicitVolume:
    """An implicit volume as threestudio's configuration describes it; what it leaves out has our default."""
    encoding, network = config["pos_encoding_config"], config["mlp_network_config"]
    grid = HashGrid(
        num_levels=encoding["n_levels"],
        features_per_level=encoding["n_features_per_level"],
        log2_size=encoding["log2_hashmap_size"],
        base_resolution=encoding["base_resolution"],
        growth=encoding["per_level_scale"],
    )
    names = {
        "radius": "radius",
        "n_feature_dims": "feature_dim",
        "normal_type": "normal_type",
        "density_bias": "density_bias",
        "density_activation": "density_activation",
        "density_blob_scale": "blob_scale",
        "density_blob_std": "blob_std",
    }
    given = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    widths = {"hidden_dim": network["n_neurons"], "num_hidden": network["n_hidden_layers"]}
    return ImplicitVolume(encoding=grid, **widths, **{**given, **changes})


def scene_of(
    geometry: ImplicitVolume,
    *,
    material: Material | None = None,
    background: Background | None = None,
    renderer: VolumeRenderer | None = None,
) -> Scene:
    """A scene around a geometry, with rule W's weights."""
    scene = Scene(
        geometry=geometry,
        material=material or NoMaterial(),
        background=background or NeuralEnvironmentMap(random_aug=False),
        renderer=renderer or VolumeRenderer(occupancy=SceneOccupancy(bound=geometry.radius)),
    )
    load_by_rule(scene)
    return scene


def load_by_rule(scene: Scene) -> None:
    official = official_scene(scene)
    kept = [key for key in official if not key.startswith(BY_RULE) or key.endswith("bbox")]
    filled = rule_w(official, {key: official[key] for key in kept})
    load_strict(scene, scene_table(scene).read(filled), what="rule W")


def official_gradients(scene: Scene) -> dict[str, Tensor]:
    """The gradients of all parameters under their official names; zeros where there is none."""
    ours = {name: torch.zeros_like(value) for name, value in scene.state_dict().items()}
    ours |= {name: p.grad for name, p in scene.named_parameters() if p.grad is not None}
    return scene_table(scene).write(ours)
