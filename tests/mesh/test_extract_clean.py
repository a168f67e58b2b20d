"""Surfaces of fields whose shape is known, and what cleaning takes away."""

import math

import pytest
import torch
from torch.testing import assert_close

from core.errors import BadMesh
from core.mesh.clean import clean_mesh
from core.mesh.extract import extract_surface, sample_grid
from core.types import Mesh

BOUND, RESOLUTION = 0.6, 40


def ball(points: torch.Tensor, radius: float = 0.4, center: tuple = (0.0, 0.0, 0.0)) -> torch.Tensor:
    return (points - torch.tensor(center)).norm(dim=-1) - radius


def surface(field, *, level: float = 0.0, inside_is_below: bool = True) -> Mesh:
    values = sample_grid(field, RESOLUTION, BOUND, chunk=5000)
    return extract_surface(values, level=level, bound=BOUND, inside_is_below=inside_is_below, what="distance")


def test_a_ball_comes_back_in_world_units_facing_outward():
    mesh = surface(lambda p: ball(p, center=(0.1, -0.05, 0.02)))
    assert_close(ball(mesh.vertices, center=(0.1, -0.05, 0.02)), torch.zeros(len(mesh.vertices)), atol=2e-3, rtol=0)
    _, report = clean_mesh(mesh)
    assert report.watertight and report.genus == 0
    assert report.volume == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.02)  # positive: faces point outward


def test_a_ring_has_one_handle_and_a_ball_beside_it_none_more():
    def ring(p: torch.Tensor) -> torch.Tensor:
        return torch.stack([p[:, :2].norm(dim=-1) - 0.3, p[:, 2]], dim=-1).norm(dim=-1) - 0.12

    _, report = clean_mesh(surface(lambda p: torch.minimum(ring(p), ball(p, 0.1, (0.0, 0.0, 0.4)))), min_component=0.0)
    assert (report.num_components, report.genus, report.watertight) == (2, 1, True)


def test_a_density_faces_outward_too():
    _, report = clean_mesh(surface(lambda p: -ball(p), inside_is_below=False))
    assert report.volume > 0


def test_an_object_cut_by_the_border_is_closed_there():
    _, report = clean_mesh(surface(lambda p: p[:, 2] + 0.1))
    assert report.watertight
    assert report.volume == pytest.approx(1.2 * 1.2 * 0.5, rel=0.1)


def test_the_grid_holds_the_corners_of_the_cube_in_the_order_x_y_z():
    values = sample_grid(lambda p: p @ torch.tensor([1.0, 10.0, 100.0]), 3, BOUND, chunk=10)
    assert_close(values[0, 0, 0].item(), -111 * BOUND)
    assert_close(values[2, 0, 1].item(), -9 * BOUND)
    assert_close(values[2, 2, 2].item(), 111 * BOUND)


@pytest.mark.parametrize(("shift", "state"), [(5.0, "empty"), (-5.0, "full")])
def test_an_empty_or_full_field_names_its_range_and_the_threshold(shift, state):
    with pytest.raises(BadMesh, match=rf"{state}.*\[.*\].*threshold 0"):
        surface(lambda p: ball(p) + shift)


def test_a_field_with_nan_is_refused():
    with pytest.raises(BadMesh, match="NaN"):
        surface(lambda p: ball(p) * float("nan"))


def test_cleaning_drops_floaters_and_keeps_large_parts():
    def two(points: torch.Tensor) -> torch.Tensor:
        return torch.minimum(ball(points, 0.25, (-0.3, 0, 0)), ball(points, 0.06, (0.4, 0.3, 0.3)))

    mesh = surface(two)
    largest, report = clean_mesh(mesh, min_component=1.0)
    assert (report.num_components, report.removed_components) == (1, 1)
    assert largest.vertices[:, 0].max() < 0
    _, report = clean_mesh(mesh, min_component=0.01)
    assert (report.num_components, report.removed_components) == (2, 0)


def test_cleaning_merges_vertices_drops_degenerate_faces_and_keeps_colours():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    faces = torch.tensor([[0, 2, 1], [0, 4, 3], [0, 3, 2], [1, 2, 3], [1, 4, 3]])
    colors = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]])
    cleaned, report = clean_mesh(Mesh(vertices, faces, colors))
    assert (report.num_vertices, report.num_faces, report.removed_faces) == (4, 4, 1)
    assert report.watertight
    assert_close(cleaned.colors, cleaned.vertices)  # this mesh is painted by its coordinates


def test_an_empty_mesh_cannot_be_cleaned():
    with pytest.raises(BadMesh, match="no faces"):
        clean_mesh(Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.long)))
