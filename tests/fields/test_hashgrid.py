"""The hash grid against tiny-cuda-nn's definition, driven by the fixture alone."""

import sys

import pytest
import torch
from torch.testing import assert_close

from core.errors import BadConfig
from core.fields.hashgrid import HashGrid, ProgressiveBandHashGrid, grid_levels
from core.fields.lookup import interpolate
from tests.golden_fixture import load, rule_w_tensor

INFO, DATA = load("mvdream_sds", "hashgrid")
CASES = {case["name"]: case for case in INFO["cases"]}


def _arguments(config: dict) -> dict:
    return {
        "num_levels": config["n_levels"],
        "log2_size": config["log2_hashmap_size"],
        "base_resolution": config["base_resolution"],
        "growth": config["per_level_scale"],
    }


def _key() -> str:
    return INFO["weights"].split("'")[1]


@pytest.mark.parametrize("backend", ["torch", "plain"])
@pytest.mark.parametrize("name", CASES)
def test_features_and_gradients_are_those_of_tiny_cuda_nn(name, backend):
    case = CASES[name]
    features_per_level = case["config"]["n_features_per_level"]
    grid = HashGrid(features_per_level=features_per_level, **_arguments(case["config"]), backend=backend)
    assert grid.params.shape == (case["n_params"],)
    grid.params.data = rule_w_tensor(_key(), grid.params.shape)
    points = DATA[f"{name}_x"].clone().requires_grad_(True)
    features = grid(points)
    assert_close(features, DATA[f"{name}_y"], atol=1e-5, rtol=1e-5)
    (features * DATA[f"{name}_cot"]).sum().backward()
    assert_close(grid.params.grad, DATA[f"{name}_grad_params"], atol=1e-5, rtol=1e-5)
    assert_close(points.grad, DATA[f"{name}_grad_x"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*CASES, "full size"])
def test_levels_are_those_of_tiny_cuda_nn(name):
    config, expected = INFO["full_size_config"], INFO["full_size_levels"]
    if name in CASES:
        config, expected = CASES[name]["config"], CASES[name]["levels"]
    levels = grid_levels(**_arguments(config))
    for level, wanted in zip(levels, expected, strict=True):
        assert level.scale == pytest.approx(wanted["scale"], rel=1e-6)
        assert (level.resolution, level.size) == (wanted["resolution"], wanted["size"])
        assert (level.offset, level.hashed) == (wanted["offset"], wanted["hashed"])


def _points(count: int, seed: int = 1) -> torch.Tensor:
    """Points of the unit cube with its corners, where dense levels wrap around, and some outside of it."""
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points[0], points[1] = 0.0, 1.0
    points[2], points[3] = -0.2, 1.2
    points[4], points[5] = torch.tensor([-0.2, 0.5, 1.2]), torch.tensor([0.5, 1.2, -0.2])
    return points


@pytest.mark.parametrize("features", [1, 2, 3, 4])
@pytest.mark.parametrize("reach", ["inside", "far outside"])
def test_the_fast_path_is_the_plain_one_up_to_second_derivatives(features, reach):
    options = {"num_levels": 5, "features_per_level": features, "log2_size": 9, "base_resolution": 4, "growth": 1.7}
    plain, fast = HashGrid(**options, backend="plain").double(), HashGrid(**options).double()
    plain.params.data.normal_(generator=torch.Generator().manual_seed(0))
    fast.load_state_dict(plain.state_dict())
    points = _points(30) if reach == "inside" else _points(30) * 9 - 4
    weight = torch.randn(30, plain.out_dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    results = []
    for grid in (plain, fast):
        x = points.clone().requires_grad_(True)
        out = grid(x)
        first = torch.autograd.grad((out.sin() * weight).sum(), (x, grid.params), create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), (x, grid.params))
        results.append((out, *first, *second))
    for got, wanted in zip(results[1], results[0], strict=True):
        assert_close(got, wanted, atol=1e-9, rtol=1e-9)


def test_the_lookup_is_differentiable_as_often_as_one_likes():
    draw = torch.Generator().manual_seed(0)
    table = torch.randn(6, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    index = torch.randint(6, (5, 3), generator=draw, dtype=torch.int32)
    assert torch.autograd.gradcheck(interpolate, (table, weights, index))
    assert torch.autograd.gradgradcheck(interpolate, (table, weights, index))


def test_many_points_are_looked_up_in_parts(monkeypatch):
    grid = HashGrid(num_levels=3, log2_size=8, base_resolution=4, growth=2.0)
    points = _points(50).float()
    whole, (gradient,) = grid(points), torch.autograd.grad(grid(points).sum(), grid.params)
    monkeypatch.setattr("core.fields.corners.CACHED", 8 * 3 * 7)
    monkeypatch.setattr("core.fields.lookup.CACHED", 8 * 11)
    assert torch.equal(grid(points), whole)
    assert_close(torch.autograd.grad(grid(points).sum(), grid.params)[0], gradient)
    monkeypatch.setattr("core.fields.hashgrid.MOST_POINTS", 20)
    assert torch.equal(grid(points), whole)


@pytest.mark.parametrize("backend", ["torch", "plain"])
def test_finer_levels_join_one_by_one(backend):
    options = {"num_levels": 4, "log2_size": 9, "base_resolution": 4, "growth": 1.7}
    grid = HashGrid(**options, backend=backend)
    bands = ProgressiveBandHashGrid(grid=grid, start_level=1, start_step=10, update_steps=5)
    points = _points(20).float()
    for step, active in [(0, 1), (14, 1), (15, 2), (24, 3), (25, 4), (1000, 4)]:
        bands.update_step(step)
        mask = (torch.arange(grid.out_dim) < active * grid.features_per_level).float()
        assert torch.equal(bands(points), grid(points) * mask)


def test_features_are_continuous_across_cells_and_differentiable_twice():
    grid = HashGrid(num_levels=2, log2_size=10, base_resolution=4, growth=2.0).double()
    grid.params.data.normal_(generator=torch.Generator().manual_seed(0))
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(grid, points.requires_grad_(True))
    border = torch.full((1, 3), 0.5 / grid.levels[0].scale, dtype=torch.float64)  # where the first level's cell ends
    assert_close(grid(border - 1e-9), grid(border + 1e-9), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["num_levels", "features_per_level", "log2_size", "base_resolution", "growth"])
def test_sizes_that_no_grid_has_are_refused(name):
    with pytest.raises(BadConfig, match=f"{name}=0"):
        HashGrid(**{name: 0.0 if name == "growth" else 0})


def test_a_backend_that_is_not_installed_is_an_error_only_when_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)  # as if it could not be imported
    with pytest.raises(ValueError, match="backend='torch'"):
        HashGrid(num_levels=1, log2_size=4, backend="tinycudann")
