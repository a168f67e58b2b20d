"""The hash grid against tiny-cuda-nn's definition, driven by the fixture alone."""

import sys

import pytest
import torch
from torch.testing import assert_close

from core.fields.hashgrid import HashGrid, grid_levels
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


@pytest.mark.parametrize("name", CASES)
def test_features_and_gradients_are_those_of_tiny_cuda_nn(name):
    case = CASES[name]
    grid = HashGrid(features_per_level=case["config"]["n_features_per_level"], **_arguments(case["config"]))
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


def test_features_are_continuous_across_cells_and_differentiable_twice():
    grid = HashGrid(num_levels=2, log2_size=10, base_resolution=4, growth=2.0).double()
    grid.params.data.normal_(generator=torch.Generator().manual_seed(0))
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.autograd.gradgradcheck(grid, points.requires_grad_(True))
    border = torch.full((1, 3), 0.5 / grid.levels[0].scale, dtype=torch.float64)  # where the first level's cell ends
    assert_close(grid(border - 1e-9), grid(border + 1e-9), atol=1e-6, rtol=0)


def test_a_backend_that_is_not_installed_is_an_error_only_when_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", None)  # as if it could not be imported
    with pytest.raises(ValueError, match="backend='torch'"):
        HashGrid(num_levels=1, log2_size=4, backend="tinycudann")
