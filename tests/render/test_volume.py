"""Quadrature along rays: the official numbers, and brute force."""

import math

import pytest
import torch
from torch.testing import assert_close

from core.render.volume import accumulate, composite, density_weights, ray_box, visible
from core.types import Rays
from tests.golden_fixture import load

_, DATA = load("mvdream_sds", "volrend")


def _render(sigma: torch.Tensor, rgb: torch.Tensor) -> dict[str, torch.Tensor]:
    rays, count = DATA["ray_indices"], int(DATA["n_rays"])
    weights, transmittance, alpha = density_weights(sigma, DATA["t_starts"], DATA["t_ends"], rays, count)
    out = composite(weights, rgb, DATA["t_starts"], DATA["t_ends"], rays, count)
    return {**out, "weights": weights, "transmittance": transmittance, "alpha": alpha}


def test_weights_and_composites_are_the_official_ones():
    out = _render(DATA["sigma"], DATA["rgb"])
    names = {"opacity": "opacity", "depth": "depth", "depth_variance": "z_variance", "rgb": "comp_rgb_fg"}
    for ours, theirs in {**names, "weights": "weights", "transmittance": "transmittance", "alpha": "alpha"}.items():
        assert_close(out[ours], DATA[theirs], atol=1e-5, rtol=1e-5)
    assert_close(out["rgb"] + DATA["bg"] * (1 - out["opacity"]), DATA["comp_rgb"], atol=1e-5, rtol=1e-5)


def test_gradients_are_the_official_ones():
    sigma, rgb = DATA["sigma"].clone().requires_grad_(True), DATA["rgb"].clone().requires_grad_(True)
    out = _render(sigma, rgb)
    total = (out["opacity"] * DATA["cot_opacity"]).sum() + (out["depth"] * DATA["cot_depth"]).sum()
    total = total + (out["rgb"] * DATA["cot_rgb"]).sum() + (out["depth_variance"] * DATA["cot_zvar"]).sum()
    total.backward()
    assert_close(sigma.grad, DATA["grad_sigma"], atol=1e-5, rtol=1e-4)
    assert_close(rgb.grad, DATA["grad_rgb"], atol=1e-5, rtol=1e-4)


def test_visibility_is_the_official_one():
    out = _render(DATA["sigma"], DATA["rgb"])
    name = next(key for key in DATA if key.startswith("visible_"))
    eps, threshold = (float(part.removeprefix("eps").removeprefix("alpha")) for part in name.split("_")[1:])
    seen = visible(out["transmittance"], out["alpha"], min_transmittance=eps, min_alpha=threshold)
    assert_close(seen, DATA[name])


def test_a_homogeneous_slab_follows_beer_and_lambert():
    edges = torch.linspace(0, 2, 41)
    rays = torch.zeros(40, dtype=torch.long)
    sigma = torch.full((40,), 1.5)
    weights, _, _ = density_weights(sigma, edges[:-1], edges[1:], rays, 1)
    opacity = accumulate(weights, torch.ones(40, 1), rays, 1).item()
    assert opacity == pytest.approx(1 - math.exp(-3.0), abs=1e-6)


def test_no_samples_at_all_give_nothing():
    empty, none = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    weights, _, _ = density_weights(empty, empty, empty, none, 3)
    out = composite(weights, torch.zeros(0, 3), empty, empty, none, 3)
    assert out["rgb"].shape == (3, 3) and not out["opacity"].any()


def test_rays_enter_and_leave_the_cube():
    origins = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0, 0, 0]])
    rays = Rays(origins, torch.tensor([[-1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]))
    near, far, hit = ray_box(rays, 0.6)
    assert hit.tolist() == [True, False, True]
    assert_close(near[[0, 2]], torch.tensor([1.4, 0.0]))
    assert_close(far[[0, 2]], torch.tensor([2.6, 0.6]))
