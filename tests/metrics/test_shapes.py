import hashlib
import math

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from core.errors import BadMesh
from core.metrics.shapes import (
    chamfer,
    f_score,
    normal_consistency,
    occupied,
    sample_surface,
    soundness,
    squared_chamfer,
    volume_iou,
    voxel_means,
)
from core.types import Mesh


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(np.asarray(shape.vertices)).float(), torch.tensor(np.asarray(shape.faces)))


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


# By mesh2sdf 1.1.0: how many points have compute(vertices, faces, 64, fix=False) < 0, and the sha256 of their bits.
MESH2SDF = {
    "ball": (17047, "7759bb1d0fa8f69f"),
    "ball with holes": (17940, "07c3ba0f9d927384"),
    "ball without its low end": (15317, "f26fac68b4680541"),
    "ball without its left end": (13131, "70d54084f583b899"),
    "two balls": (15177, "f34464aeef5a0fe6"),
    "box on the grid": (29791, "b1bd9108f3f3d744"),
    "ball around the grid": (231158, "1877a45456680aef"),
}


def meshes() -> dict[str, trimesh.Trimesh]:
    """Closed and open ones, overlapping ones, and one with faces on the grid's points."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    other = trimesh.creation.icosphere(subdivisions=3, radius=0.3).apply_translation([0.35, 0, 0])
    holes = np.arange(len(ball.faces)) % 9 != 0
    return {
        "ball": ball,
        "ball with holes": trimesh.Trimesh(ball.vertices, ball.faces[holes], process=False),
        "ball without its low end": trimesh.Trimesh(
            ball.vertices, ball.faces[ball.triangles_center[:, 2] > -0.3], process=False
        ),
        "ball without its left end": trimesh.Trimesh(
            ball.vertices, ball.faces[ball.triangles_center[:, 0] > -0.3], process=False
        ),
        "two balls": trimesh.util.concatenate([ball, other]),
        "box on the grid": trimesh.creation.box((1, 1, 1)),
        "ball around the grid": trimesh.creation.icosphere(subdivisions=2, radius=1.3),
    }


@pytest.mark.parametrize("name", meshes())
def test_the_inside_of_closed_and_open_meshes_is_mesh2sdfs(name):
    found = occupied(mesh_of(meshes()[name])).numpy()
    digest = hashlib.sha256(np.packbits(found).tobytes()).hexdigest()[:16]
    assert (int(found.sum()), digest) == MESH2SDF[name]


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


def test_the_squared_chamfer_distance_is_a_sum_of_squares():
    a, b = torch.zeros(3, 3), torch.tensor([[0.3, 0.0, 0.0], [0.0, 0.4, 0.0]])
    assert squared_chamfer(a, b) == pytest.approx(0.09 + (0.09 + 0.16) / 2) == pytest.approx(squared_chamfer(b, a))
    assert squared_chamfer(a, a) == 0


def test_the_f_score_is_the_harmonic_mean_of_precision_and_recall():
    truth = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]])
    made = torch.tensor([[0.05, 0, 0], [9, 0, 0]])
    assert f_score(made, truth, within=0.1) == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert f_score(truth, truth, within=0.1) == 1 and f_score(made + 50, truth, within=0.1) == 0


def test_normals_agree_on_equal_boxes_and_differ_by_the_angle_of_a_tilt():
    # Short of 1 by the points at an edge whose nearest one lies on the next side.
    same, coarse = normal_consistency(box(), box()), normal_consistency(box(), box(), num_points=2000)
    assert 0.97 < same < 1 and coarse < same
    wound_inwards = Mesh(box().vertices, box().faces.flip(1))
    assert normal_consistency(box(), wound_inwards) == pytest.approx(same, abs=0.005)
    square = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    cos, sin = math.cos(math.radians(30)), math.sin(math.radians(30))
    tilted = Mesh(square.vertices @ torch.tensor([[1.0, 0, 0], [0, cos, sin], [0, -sin, cos]]), square.faces)
    assert normal_consistency(square, tilted, num_points=500) == pytest.approx(cos, abs=1e-6)


def test_soundness_tells_closed_surfaces_and_their_number_whatever_the_vertices_are_shared():
    closed = box()
    open_box = Mesh(closed.vertices, closed.faces[:-1])
    two = Mesh(torch.cat([closed.vertices, closed.vertices + 3]), torch.cat([closed.faces, closed.faces + 8]))
    soup = Mesh(closed.vertices[closed.faces].reshape(-1, 3), torch.arange(36).view(12, 3))
    for mesh, expected in ((closed, (True, 1)), (open_box, (False, 1)), (two, (True, 2)), (soup, (True, 1))):
        found = soundness(mesh)
        assert (found.watertight, found.num_components) == expected


@pytest.mark.parametrize("measure", [soundness, lambda mesh: normal_consistency(mesh, box())])
def test_measures_of_a_surface_refuse_an_empty_a_flat_and_a_broken_one(measure):
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    for mesh in (empty, flat, Mesh(box().vertices * torch.nan, box().faces)):
        with pytest.raises(BadMesh):
            measure(mesh)
