"""Marching tetrahedra against the official ones, driven by the fixture alone, and on shapes that are known."""

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

from core.errors import BadMesh
from core.mesh.tetrahedra import deformed, kuhn_grid, marching_tetrahedra, read_tets, unique_edges
from tests.golden_fixture import load

INFO, DATA = load("mvdream_sds", "marching_tets")


def _ball(points: torch.Tensor, radius: float = 0.35) -> torch.Tensor:
    return (points - 0.5).norm(dim=-1) - radius


def _volumes(vertices: torch.Tensor, tets: torch.Tensor) -> torch.Tensor:
    a, b, c, d = vertices[tets].double().unbind(1)
    return ((b - a) * torch.linalg.cross(c - a, d - a)).sum(-1) / 6


def test_vertices_faces_and_their_order_are_the_official_ones():
    vertices, faces = marching_tetrahedra(DATA["grid_vertices"], DATA["level"][:, 0], DATA["tets"])
    assert_close(vertices, DATA["v_pos"], atol=1e-6, rtol=0)
    assert torch.equal(faces, DATA["faces"])
    edges, of_tet = unique_edges(DATA["tets"], len(DATA["grid_vertices"]))
    assert torch.equal(edges, DATA["all_edges"])
    assert torch.equal(edges[of_tet[:, 0]], DATA["tets"][:, :2].sort(dim=-1).values)
    moved = deformed(DATA["grid_vertices"], DATA["deformation"], INFO["resolution"])
    assert_close(
        marching_tetrahedra(moved, DATA["level"][:, 0], DATA["tets"])[0], DATA["v_pos_deformed"], atol=1e-5, rtol=0
    )


def test_faces_look_outward_as_the_official_normals_do():
    vertices, faces = marching_tetrahedra(DATA["grid_vertices"], DATA["level"][:, 0], DATA["tets"])
    corners = vertices[faces]
    of_face = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), of_face.repeat_interleave(3, 0))
    assert_close(torch.nn.functional.normalize(normals, dim=-1), DATA["v_nrm"], atol=1e-4, rtol=0)
    assert trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False).volume > 0


@pytest.mark.parametrize("resolution", [1, 2, 5])
def test_a_kuhn_grid_fills_the_cube_with_positive_tetrahedra(resolution):
    grid = kuhn_grid(resolution)
    volumes = _volumes(grid.vertices, grid.tets)
    assert (volumes > 0).all() and volumes.sum().item() == pytest.approx(1)
    assert len(grid.vertices) == (resolution + 1) ** 3 and len(grid.tets) == 6 * resolution**3
    assert grid.border.sum() == (resolution + 1) ** 3 - (resolution - 1) ** 3


def test_a_ball_is_closed_and_has_its_volume():
    grid = kuhn_grid(24)
    vertices, faces = marching_tetrahedra(grid.vertices, _ball(grid.vertices), grid.tets)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.35**3, rel=0.01)
    assert _ball(vertices).abs().max() < 2e-3


def test_a_file_of_the_official_layout_is_read(tmp_path):
    grid = kuhn_grid(3)
    np.savez(tmp_path / "3_tets.npz", vertices=grid.vertices.double().numpy(), indices=grid.tets.numpy())
    read = read_tets(tmp_path / "3_tets.npz")
    assert torch.equal(read.tets, grid.tets) and torch.equal(read.vertices, grid.vertices)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"vertices": np.zeros((4, 3))}, "indices"),
        ({"vertices": np.zeros((4, 2)), "indices": np.zeros((1, 4), int)}, r"\[4, 2\]"),
        ({"vertices": np.full((4, 3), np.nan), "indices": np.zeros((1, 4), int)}, "outside"),
        ({"vertices": np.zeros((4, 3)), "indices": np.full((1, 4), 9)}, "4 vertices"),
        ({"vertices": np.zeros((4, 3)), "indices": np.array([[object()] * 4], object)}, "no tetrahedral grid"),
    ],
)
def test_a_broken_grid_is_refused_with_its_fault(tmp_path, arrays, named):
    np.savez(tmp_path / "tets.npz", **arrays)
    with pytest.raises(BadMesh, match=named):
        read_tets(tmp_path / "tets.npz")


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    with pytest.raises(BadMesh, match=r"nothing\.npz"):
        read_tets(tmp_path / "nothing.npz")
    (tmp_path / "tets.npz").write_bytes(b"no archive")
    with pytest.raises(BadMesh, match="no tetrahedral grid"):
        read_tets(tmp_path / "tets.npz")
