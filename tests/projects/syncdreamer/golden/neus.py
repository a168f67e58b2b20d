"""NeuS against the official renderer, driven by the fixture `neus`."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

from core.checkpoints.neus import neus as neus_pairs
from core.checkpoints.rename import rename
from core.fields.sdf import SDFNetwork, SurfaceColor
from core.render.neus import NeuS, near_far
from core.types import Rays
from tests.golden_fixture import load, rule_w_tensor
from tests.projects.syncdreamer.golden.common import close

INFO, DATA = load("syncdreamer", "neus")


@pytest.fixture(scope="module")
def model() -> NeuS:
    sdf, color = INFO["kwargs"]["sdf"], INFO["kwargs"]["color"]
    assert sdf["weight_norm"] and color["weight_norm"] and color["squeeze_out"]
    with torch.device("meta"):
        neus = NeuS(
            sdf=SDFNetwork(
                feature_dim=sdf["d_out"] - 1,
                hidden_dim=sdf["d_hidden"],
                num_layers=sdf["n_layers"],
                skip_layers=sdf["skip_in"],
                num_frequencies=sdf["multires"],
                radius=sdf["bias"],
                scale=sdf["scale"],
            ),
            color=SurfaceColor(
                feature_dim=color["d_feature"],
                hidden_dim=color["d_hidden"],
                num_layers=color["n_layers"],
                num_frequencies=color["multires_view"],
            ),
            num_coarse=INFO["kwargs"]["coarse_sn"],
            num_fine=INFO["kwargs"]["fine_sn"],
            rgb_weight=INFO["kwargs"]["lambda_rgb_loss"],
            mask_weight=INFO["kwargs"]["lambda_mask_loss"],
            eikonal_weight=INFO["kwargs"]["lambda_eikonal_loss"],
        )
    pairs = neus_pairs(sdf_layers=sdf["n_layers"], color_layers=color["n_layers"])
    to_theirs = {ours: theirs for theirs, ours in pairs}
    shapes = {to_theirs[key]: value.shape for key, value in neus.state_dict().items()}
    assert set(shapes) == set(INFO["keys"])
    prefix = INFO["key_prefix"]
    state = {key: rule_w_tensor(prefix + key, shape) for key, shape in shapes.items()}
    _apply_exceptions(state, prefix)
    neus.load_state_dict(rename(state, pairs), strict=True, assign=True)
    return neus


def _apply_exceptions(state: dict[str, torch.Tensor], prefix: str) -> None:
    for key, rule in INFO["exceptions"].items():
        name, _, index = key.removeprefix(prefix).partition("[")
        if index:  # one element, shifted
            state[name][int(index.rstrip("]"))] -= INFO["sdf_shift"]
        else:
            state[name] = torch.tensor(rule)


@pytest.fixture(scope="module")
def rays() -> Rays:
    return Rays(DATA["rays_o"], DATA["rays_d"])


@contextmanager
def in_double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def rounding_of_samples(model: NeuS, rays: Rays, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples in double precision, and how far single precision may lie from them, sample by sample.

    Quantiles of an almost flat histogram amplify rounding: here by as much as they amplify errors of the signed
    distance, drawn a few times at the size of those that single precision makes.
    """
    exact = copy.deepcopy(model).double()
    rays64 = Rays(rays.origins.double(), rays.directions.double())
    points = rays.origins[:, None] + rays.directions[:, None] * z[..., None]
    with torch.no_grad():
        error = (model.sdf(points)[0] - exact.sdf(points.double())[0]).abs().max().item()
    generator, distance = torch.Generator().manual_seed(0), exact.sdf.forward

    def inexact_distance(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, features = distance(points)
        return value + error * (2 * torch.rand(value.shape, generator=generator) - 1), features

    with in_double_precision():
        samples = exact.sample(rays64)
        exact.sdf.forward = inexact_distance
        spread = torch.stack([(exact.sample(rays64) - samples).abs() for _ in range(8)]).amax(dim=0)
    return samples, 1e-5 + 3 * spread


def test_the_signed_distance_its_features_and_gradient_are_the_official_ones(model):
    distance, features, gradient = model.sdf.with_gradient(DATA["points"])
    close(torch.cat([distance, features], dim=-1), DATA["sdf_feat"])
    close(gradient, DATA["sdf_gradient"])


def test_the_surface_colour_is_the_official_one(model):
    features = DATA["sdf_feat"][:, 1:]
    color = model.color(DATA["points"], DATA["sdf_gradient"], DATA["view_dirs"], features)
    assert_close(color, DATA["color"], atol=1e-5, rtol=0)


def test_samples_along_rays_are_the_official_ones(model, rays):
    near, far = near_far(rays)
    assert_close(near, DATA["near"], atol=1e-5, rtol=0)
    assert_close(far, DATA["far"], atol=1e-5, rtol=0)
    samples, tolerance = rounding_of_samples(model, rays, DATA["z_vals"])
    for found in (model.sample(rays), DATA["z_vals"]):
        difference = (found - samples).abs()
        # A bin whose share lies at the histogram's threshold may be taken either way: a sample moves by up to a bin.
        assert (difference > tolerance).double().mean() < 5e-3
        assert (difference < (far - near) / (model.num_coarse - 1)).all()
    assert tolerance.median() < 5e-5, "these rays are too ill-conditioned to compare anything"


def test_an_evaluation_render_is_the_official_one(model, rays):
    with torch.no_grad():
        render = model.shade(rays, DATA["z_vals"])
        assert_close(model.render(rays).rgb, DATA["rgb"], atol=1e-4, rtol=1e-4)  # with samples of its own
    assert_close(render.rgb, DATA["rgb"], atol=1e-5, rtol=1e-5)
    assert_close(render.mask, DATA["mask"], atol=1e-5, rtol=1e-5)
    close(render.normal, DATA["normal"])
    assert_close(render.inside, DATA["inner_mask"].bool())
    close(render.gradient_error, DATA["gradient_error"])


@pytest.mark.parametrize("step", sorted(INFO["losses_train"], key=int))
def test_the_training_losses_are_the_official_ones(model, rays, step):
    losses = model.losses(rays, DATA["rgb_gt"], DATA["mask_gt"], step=int(step), jitter=DATA["t_rand"])
    expected = INFO["losses_train"][step]
    ours = {"loss": "loss", "rendering": "rgb", "mask": "mask", "eikonal": "eikonal"}
    for name, value in expected.items():
        assert losses[ours[name]].item() == pytest.approx(value, abs=1e-5, rel=1e-4), name
