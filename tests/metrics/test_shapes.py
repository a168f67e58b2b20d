import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from core.errors import BadMesh
from core.metrics.shapes import chamfer, occupied, sample_surface, volume_iou, voxel_means
from core.types import Mesh


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces))


def box(side: float = 1.0, shift: float = 0.0) -> Mesh:
    mesh = mesh_of(trimesh.creation.box((side, side, side)))
    return Mesh(mesh.vertices + torch.tensor([shift, 0.0, 0.0]), mesh.faces)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_chamfer_equals_brute_force(n, m, seed):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, 3, generator=g), torch.randn(m, 3, generator=g)
    distances = torch.cdist(a.double(), b.double())
    expected = (distances.amin(1).mean() + distances.amin(0).mean()) / 2
    assert chamfer(a, b) == pytest.approx(expected.item()) == pytest.approx(chamfer(b, a))


def test_chamfer_of_a_set_with_itself_is_zero():
    assert chamfer(torch.rand(9, 3), torch.rand(9, 3)) > 0 == chamfer(torch.ones(4, 3), torch.ones(1, 3))


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.full((2, 3), torch.nan), torch.full((1, 3), torch.inf)])
def test_empty_and_broken_point_sets_are_refused(bad):
    for pair in ((bad, torch.zeros(1, 3)), (torch.zeros(1, 3), bad)):
        with pytest.raises(BadMesh, match="point set"):
            chamfer(*pair)


def test_surface_samples_lie_on_the_surface_evenly_and_repeat_with_the_seed():
    points = sample_surface(box(), 3000, seed=1)
    assert_close(points.abs().amax(dim=1), torch.full((3000,), 0.5))
    assert ((points[:, 0] - 0.5).abs() < 1e-6).float().mean() == pytest.approx(1 / 6, abs=0.03)
    assert torch.equal(points, sample_surface(box(), 3000, seed=1))
    assert not torch.equal(points, sample_surface(box(), 3000, seed=2))


def test_an_empty_mesh_and_one_with_nan_are_refused():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    broken = Mesh(box().vertices * torch.nan, box().faces)
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    for mesh in (empty, broken, flat):
        with pytest.raises(BadMesh):
            sample_surface(mesh, 10, seed=0)


def test_occupied_cells_fill_the_volume():
    assert occupied(box(), resolution=64).float().mean().item() * 8 == pytest.approx(1.0, abs=0.1)


def test_overlap_of_shifted_boxes_is_the_one_of_geometry():
    assert volume_iou(box(), box()) == 1
    assert volume_iou(box(0.9), box(0.9, shift=0.45), half_extent=1.2) == pytest.approx(1 / 3, abs=0.02)
    assert volume_iou(box(0.5, -0.5), box(0.5, 0.5)) == 0
    with pytest.raises(BadMesh, match="scale"):
        volume_iou(box(0.1, 50), box(0.1, 50))


def test_one_mean_point_stays_for_each_cell():
    points = torch.tensor([[0.0, 0, 0], [0.004, 0, 0], [0.1, 0, 0]])
    assert_close(voxel_means(points, 0.01), torch.tensor([[0.002, 0, 0], [0.1, 0, 0]]))
