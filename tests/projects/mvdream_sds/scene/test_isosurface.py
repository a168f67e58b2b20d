"""Surfaces of densities that are known."""

import math

import pytest
import torch

from core.errors import BadConfig, BadMesh
from projects.mvdream_sds.scene.isosurface import Isosurface


def _ball(radius: float = 0.3, height: float = 50.0):
    """Density that falls on a line from `height` in the middle to 0 at twice the radius."""
    return lambda points: height * (1 - points.norm(dim=-1, keepdim=True) / (2 * radius)).clamp(min=0)


def _two_balls(points: torch.Tensor) -> torch.Tensor:
    small = _ball(0.05)(points - torch.tensor([0.7, 0.7, 0.7]))
    return _ball(0.25)(points) + small


@pytest.mark.parametrize("method", ["mt", "mc"])
def test_a_ball_is_found_at_its_size(method):
    mesh, report, _ = Isosurface(method=method, resolution=24)(_ball(), 1.0)
    assert report.watertight and report.volume == pytest.approx(4 / 3 * math.pi * 0.3**3, rel=0.02)
    assert mesh.vertices.norm(dim=-1).sub(0.3).abs().max() < 0.01


@pytest.mark.parametrize("method", ["mt", "mc"])
def test_the_second_pass_is_finer(method):
    def error(fine: bool) -> float:
        _, report, _ = Isosurface(method=method, resolution=16, coarse_to_fine=fine)(_ball(0.2), 1.0)
        return abs(report.volume / (4 / 3 * math.pi * 0.2**3) - 1)

    assert error(True) < 0.5 * error(False)


@pytest.mark.parametrize("method", ["mt", "mc"])
def test_what_the_cube_cuts_is_closed_there(method):
    _, report, _ = Isosurface(method=method, resolution=32, coarse_to_fine=False)(
        lambda p: 50 * (1 - p[:, :1].abs()), 1.0
    )
    assert report.watertight and report.volume == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("method", ["mt", "mc"])
def test_small_pieces_are_taken_away(method):
    options = {"method": method, "resolution": 32, "coarse_to_fine": False}
    _, both, _ = Isosurface(**options, min_component=0.0)(_two_balls, 1.0)
    _, largest, _ = Isosurface(**options, min_component=1.0)(_two_balls, 1.0)
    assert (both.num_components, largest.num_components, largest.removed_components) == (2, 1, 1)


@pytest.mark.parametrize("method", ["mt", "mc"])
def test_the_automatic_threshold_is_the_mean_of_what_is_there(method):
    height = 0.5  # a faint scene, of which the published 25 would find nothing
    mesh, _, threshold = Isosurface(method=method, resolution=24, threshold="auto")(_ball(0.3, height), 1.0)
    # Mean of h (1 - r / R) over a ball of radius R is h / 4, which is the density at r = 3/4 R.
    assert mesh.vertices.norm(dim=-1).mean().item() == pytest.approx(0.75 * 0.6, rel=0.05)
    assert threshold == pytest.approx(height / 4, rel=0.05), "the number that was used is told"


@pytest.mark.parametrize("method", ["mt", "mc"])
@pytest.mark.parametrize(
    ("density", "said"),
    [
        (lambda p: torch.zeros(len(p), 1), "empty.*threshold 25"),
        (lambda p: torch.full((len(p), 1), 99.0), "full"),
        (lambda p: torch.full((len(p), 1), math.nan), "NaN"),
    ],
)
def test_no_surface_is_an_error_that_says_why(method, density, said):
    with pytest.raises(BadMesh, match=said):
        Isosurface(method=method, resolution=8)(density, 1.0)


def test_an_empty_scene_has_no_automatic_threshold():
    with pytest.raises(BadMesh, match="threshold=auto"):
        Isosurface(resolution=8, threshold="auto")(lambda p: torch.zeros(len(p), 1), 1.0)


def test_settings_that_nothing_reads_are_refused():
    with pytest.raises(BadConfig, match="tets"):
        Isosurface(method="mc", tets="grid.npz")
