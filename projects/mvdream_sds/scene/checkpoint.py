"""Scenes that threestudio saved: its names <-> ours.

A `last.ckpt` is Lightning's; its `state_dict` holds the scene, without the guidance's frozen networks.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import Change, NameTable, State, load_strict
from core.errors import BadCheckpoint
from projects.mvdream_sds.scene.background import NeuralEnvironmentMap
from projects.mvdream_sds.scene.materials import PointLightMaterial
from projects.mvdream_sds.scene.scene import Scene

GRID = "geometry.encoding.encoding.encoding"
SH = "background.encoding.encoding.encoding.params"  # an encoding without parameters still has an empty one
ESTIMATOR = "renderer.estimator"
BOXES = ("geometry.bbox", "renderer.bbox", f"{ESTIMATOR}.aabbs")
CELLS, BITS = f"{ESTIMATOR}.resolution", f"{ESTIMATOR}.binaries"


def scene_table(scene: Scene) -> NameTable:
    """The official names of a scene with such parts."""
    geometry = scene.geometry
    grid = "geometry.encoding.grid" if hasattr(geometry.encoding, "grid") else "geometry.encoding"
    pairs = [(f"{GRID}.params", f"{grid}.params")]
    networks = {"geometry": ["density_network", "feature_network"], "background": []}
    if geometry.normal_type == "pred":
        networks["geometry"].append("normal_network")
    if isinstance(scene.background, NeuralEnvironmentMap):
        networks["background"].append("network")
    for part, names in networks.items():
        for name in names:
            layers = scene.get_submodule(f"{part}.{name}")
            pairs += [(f"{part}.{name}.layers.{i}", f"{part}.{name}.{i}") for i, m in _linear(layers)]
    if isinstance(scene.material, PointLightMaterial):
        pairs += [(f"material.{kind}_light_color", f"material.{kind}_color") for kind in ("ambient", "diffuse")]
    pairs += [(f"{ESTIMATOR}.occs", "renderer.occupancy.values"), (BITS, "renderer.occupancy.occupied")]
    guidance = {"guidance": "the frozen networks of the guidance, which a scene does not own"}
    return NameTable(pairs, [_derived(scene)], guidance)


def load_official_scene(scene: Scene, path: Path) -> None:
    """A scene of threestudio's, from its Lightning checkpoint; BadCheckpoint unless it fits in every tensor."""
    load_strict(scene, scene_table(scene).read(read_checkpoint(path)), what=f"a scene from {path}")


def official_scene(scene: Scene) -> dict[str, Tensor]:
    """This scene's state under threestudio's names: what its `state_dict` would hold."""
    return scene_table(scene).write(scene.state_dict())


def _linear(layers: nn.Module) -> list[tuple[int, nn.Module]]:
    return [(index, layer) for index, layer in enumerate(layers.children()) if isinstance(layer, nn.Linear)]


def _derived(scene: Scene) -> Change:
    """What official files hold besides, which follows from the settings: checked when read, made when written."""
    radius, resolution = scene.geometry.radius, scene.renderer.occupancy.resolution
    box = torch.tensor([[-radius] * 3, [radius] * 3])
    expected = {
        **{name: box.reshape(1, 6) if name.endswith("aabbs") else box for name in BOXES},
        CELLS: torch.tensor([resolution] * 3, dtype=torch.int32),
        **({SH: torch.zeros(0)} if isinstance(scene.background, NeuralEnvironmentMap) else {}),
    }

    def read(state: State) -> State:
        for name, wanted in expected.items():
            found = state.get(name)
            if found is None or found.shape != wanted.shape or not torch.equal(found.to(wanted), wanted):
                shown = "is missing" if found is None else f"is {found.flatten()[:6].tolist()}"
                raise BadCheckpoint(
                    f"checkpoint key {name} {shown}, but this scene has {wanted.flatten()[:6].tolist()}; set "
                    "scene.geometry.radius and scene.renderer.occupancy.resolution to the checkpoint's"
                )
        left = {name: value for name, value in state.items() if name not in expected}
        return {**left, BITS: left[BITS].reshape(-1)} if BITS in left else left

    def write(state: State) -> State:
        bits: Mapping[str, Tensor] = {BITS: state[BITS].view(1, *[resolution] * 3)}
        return {**state, **expected, **bits}

    return Change(read, write)
