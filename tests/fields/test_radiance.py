"""Radiance field, occupancy grid and their renderer: properties that need no reference."""

import pytest
import torch
from torch.testing import assert_close

from core.fields.encodings import Frequencies, spherical_harmonics
from core.fields.hashgrid import HashGrid
from core.fields.radiance import NGPField
from core.render.ngp import NGP
from core.render.occupancy import OccupancyGrid
from core.types import Rays


@pytest.fixture(scope="module")
def ngp() -> NGP:
    torch.manual_seed(0)
    grid = HashGrid(num_levels=2, log2_size=8, base_resolution=4, growth=2.0)
    return NGP(field=NGPField(grid=grid, hidden_dim=16, color_hidden_dim=16), max_steps=96, grid_resolution=16)


@pytest.fixture(scope="module")
def rays() -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator), dim=-1) * 1.5
    targets = torch.randn(20, 3, generator=generator) * 0.05
    return Rays(origins, torch.nn.functional.normalize(targets - origins, dim=-1))


def test_frequencies_follow_the_official_order():
    encoded = Frequencies(in_dim=2, num_frequencies=2)(torch.tensor([0.3, -0.7]))
    x = torch.tensor([0.3, -0.7])
    assert_close(encoded, torch.cat([x, x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos()]))


def test_spherical_harmonics_are_orthonormal():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(200_000, 3, generator=generator), dim=-1)
    bands = spherical_harmonics(directions, 4)
    gram = bands.T @ bands * (4 * torch.pi / len(directions))
    assert_close(gram, torch.eye(16), atol=0.03, rtol=0)


def test_training_starts_from_a_soft_ball(ngp):
    axis = torch.tensor([[0.0, 0.0, 0.05], [0.0, 0.0, 0.24], [0.0, 0.0, 0.5]])
    density, _ = ngp.field.density(axis)
    assert density[0] > density[1] > density[2]
    assert density[2] < 0.01 * density[0]


def test_a_pruned_render_equals_the_full_one_where_nothing_visible_is_pruned(ngp, rays):
    full, opacity = ngp.render(rays)
    assert opacity.max() > 0.5
    ngp.grid.threshold = 1e-3
    for step in range(4):  # several looks: one random point does not see all of a cell
        ngp.grid.update(ngp._density, torch.Generator().manual_seed(step), everywhere=True)
    assert 0.02 < ngp.grid.occupied.float().mean() < 0.9
    assert_close(ngp.render(rays)[0], full, atol=5e-3, rtol=0)


def test_a_ray_that_ends_sees_nothing_behind_its_end(ngp, rays):
    _, opacity = ngp.render(rays, reach=0.8)  # it meets the cube later
    assert not opacity.any()
    _, half = ngp.render(rays, reach=1.5)
    _, whole = ngp.render(rays)
    assert (half <= whole).all() and half.max() > 0.1 and (half < whole).any()


def test_a_surface_has_the_colours_that_the_given_eyes_see(ngp):
    eyes = torch.tensor([[1.5, 0.0, 0.0], [0.0, 1.5, 0.0]])
    mesh = ngp.surface(16, eyes=eyes)
    facing = mesh.vertices[mesh.vertices[:, 0].argmax()][None]
    toward = torch.nn.functional.normalize(facing - eyes[:1], dim=-1)
    color, opacity = ngp.look(Rays(eyes[:1], toward))
    assert opacity.item() > 0.9
    assert_close(ngp.surface_color(facing, eyes), color, atol=0.05, rtol=0)
    assert_close(mesh.colors, ngp.surface_color(mesh.vertices, eyes))


def test_losses_have_finite_gradients_even_for_rays_that_miss(ngp, rays):
    away = Rays(rays.origins, -rays.directions)
    both = Rays(torch.cat([rays.origins, away.origins]), torch.cat([rays.directions, away.directions]))
    losses = ngp.losses(both, torch.rand(40, 3), torch.ones(40, 1), step=0, jitter=torch.rand(40, 1))
    losses["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in ngp.parameters())
    color, opacity = ngp.look(away)
    assert_close(color, torch.ones_like(color))  # white background
    assert not opacity.any()


def test_the_occupancy_grid_decays_and_finds_what_is_there():
    grid = OccupancyGrid(bound=1.0, resolution=8, threshold=0.5, decay=0.5)

    def half(points):
        return (points[:, 0] > 0).float()

    grid.update(half, torch.Generator().manual_seed(0), everywhere=True)
    assert grid(torch.tensor([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0], [1.5, 0.0, 0.0]])).tolist() == [True, False, False]
    grid.update(lambda points: torch.zeros(len(points)), torch.Generator().manual_seed(1), everywhere=True)
    assert grid.values.max().item() == pytest.approx(0.5)
    grid.update(half, torch.Generator().manual_seed(2), everywhere=False)
    assert grid.values.max().item() == pytest.approx(1.0)
