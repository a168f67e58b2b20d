"""The rasterisers of the shape measures, side by side; and whose mesh a fault is in."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import trimesh

from core.cameras.rigs import rig
from core.errors import BadImage, BadMesh
from core.render.raster import rasterize
from core.types import Mesh
from projects.benchmark import solids
from projects.benchmark.placing import moved_onto
from projects.benchmark.solids import (
    RENDER_SIZE,
    Shape,
    VisibleChamfer,
    posed_volume_iou,
    seen_depth,
    surface_chamfer,
    visible_chamfer,
)


def thing(scale: float = 1.0) -> Mesh:
    """A ring around a block, inside the unit cube."""
    solid = trimesh.util.concatenate([trimesh.creation.torus(0.35, 0.1), trimesh.creation.box((0.2, 0.3, 0.4))])
    return Mesh(torch.tensor(solid.vertices).float() * scale, torch.tensor(solid.faces))


FLAT = Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]]))  # one face, all of whose corners are one point


def with_depths(folder: Path, size: int) -> Shape:
    """`thing` with its depth pictures, as SyncDreamer's renderings have them."""
    depth = seen_depth(thing(), rig("syncdreamer", size=size), "cpu")
    values = ((depth - 0.6) / 1.8 * 65535).round().clamp(0, 65535).numpy().astype(np.uint16)
    for view, picture in enumerate(values):
        cv2.imwrite(str(folder / f"{view:03d}-depth.png"), picture)
    return Shape("thing", thing(), folder)


@pytest.fixture
def truth(tmp_path, monkeypatch) -> Shape:
    """Its pictures are small, which is fast."""
    monkeypatch.setattr(solids, "RENDER_SIZE", 64)
    return with_depths(tmp_path, 64)


def test_the_chosen_rasteriser_is_the_one_that_draws(truth, monkeypatch):
    drawn = []

    def its(mesh, cameras):
        drawn.append(len(cameras))
        return rasterize(mesh, cameras)

    monkeypatch.setattr(solids, "rasterize_nvdiffrast", its)
    monkeypatch.setattr(solids, "require_nvdiffrast", lambda who: None)
    monkeypatch.setattr(solids, "DEVICES", {"cpu": "cpu", "nvdiffrast": "cpu"})
    made = Shape("thing", thing(0.98))
    ours = VisibleChamfer()(made, truth)
    assert not drawn and 0.001 < ours < 0.02
    assert VisibleChamfer(rasterizer="nvdiffrast")(made, truth) == ours and drawn == [16]


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("nvdiffrast") is None, reason="nvdiffrast is not installed")
def test_nvdiffrast_and_our_rasteriser_give_the_same_depth_and_nearly_the_same_distance(tmp_path):
    truth = with_depths(tmp_path, RENDER_SIZE)
    cameras = rig("syncdreamer", size=RENDER_SIZE)
    its, ours = (seen_depth(thing(), cameras, name) for name in ("nvdiffrast", "cpu"))
    both, either = (its > 0) & (ours > 0), (its > 0) | (ours > 0)
    assert both.sum() > 0.999 * either.sum()
    assert (its - ours)[both].abs().quantile(0.999) < 1e-4
    made = Shape("thing", thing(0.96))
    distances = [VisibleChamfer(rasterizer=name)(made, truth) for name in ("nvdiffrast", "cpu")]
    assert distances[0] == pytest.approx(distances[1], abs=5e-4)


def test_depth_pictures_that_show_nothing_or_have_another_size_are_the_truths_fault(truth):
    folder = truth.depth_folder
    cv2.imwrite(str(folder / "003-depth.png"), np.zeros((8, 8), np.uint16))
    with pytest.raises(BadImage, match=r"^true mesh: .* a picture of depth has \(8, 8\) pixels"):
        visible_chamfer(truth, truth)
    for view in range(16):
        cv2.imwrite(str(folder / f"{view:03d}-depth.png"), np.zeros((64, 64), np.uint16))
    with pytest.raises(BadImage, match=r"^true mesh: .* show nothing"):
        visible_chamfer(truth, truth)


def test_a_mesh_without_extent_is_said_to_be_the_predicted_or_the_true_one():
    good, bad = Shape("toy", thing()), Shape("toy", FLAT)
    for measure in (surface_chamfer, lambda made, true: moved_onto(made, true, within=0.1)):
        with pytest.raises(BadMesh, match=r"^predicted mesh: cannot sample"):
            measure(bad, good)
        with pytest.raises(BadMesh, match=r"^true mesh: cannot sample"):
            measure(good, bad)
    with pytest.raises(BadMesh, match=r"^true mesh: a mesh without extent"):
        posed_volume_iou(good, bad, turns_deg={})
