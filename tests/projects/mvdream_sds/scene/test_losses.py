"""The losses of a scene against the official ones, driven by the fixture alone."""

import re

import pytest
import torch
from torch.testing import assert_close

from core.errors import BadConfig
from projects.mvdream_sds.scene.losses import SceneLosses
from projects.mvdream_sds.scene.renderer import Rendered, Shaded
from tests.golden_fixture import load

INFO, DATA = load("mvdream_sds", "losses")
LOGGED = INFO["logged"]
STEP = int(re.search(r"global_step (\d+)", INFO["upstream_class"])[1])


def _schedules() -> dict:
    """ "sds 1, orient C([0,10,1000,5000])=505, sparsity .5"."""
    words = INFO["lambdas"]
    found = {name: float(value) for name, value in re.findall(r"(\w+) ([\d.]+)(?:,|$)", words)}
    for name, numbers in re.findall(r"(\w+) C\(\[([\d.,]+)\]\)", words):
        found[name] = [int(number) for number in numbers.split(",")]
    return found


def _rendered(**changes) -> Rendered:
    given = {name: DATA[name].clone().requires_grad_(True) for name in ("normal", "opacity", "z_variance", "weights")}
    given |= changes
    ray = torch.zeros(len(DATA["weights"]), dtype=torch.long)
    zero = torch.zeros_like(DATA["opacity"])
    return Rendered(
        rgb=DATA["comp_rgb"],
        foreground=DATA["comp_rgb"],
        background=DATA["comp_rgb"],
        opacity=given["opacity"],
        depth=zero,
        z_variance=given["z_variance"],
        normal=None,
        samples=Shaded(ray, given["weights"], DATA["t_dirs"], given["normal"]),
    )


def test_losses_weights_and_gradients_are_the_official_ones():
    rendered = _rendered()
    guidance = {
        "loss_sds": torch.tensor(LOGGED["train/loss_sds"]),
        "grad_norm": torch.tensor(LOGGED["train/grad_norm"]),
    }
    out = SceneLosses(**_schedules())(guidance, rendered, step=STEP)
    assert_close(out["loss"], DATA["loss"], atol=1e-5, rtol=1e-5)
    for name, wanted in LOGGED.items():
        assert out[name.partition("/")[2]].item() == pytest.approx(wanted, rel=1e-5)
    out["loss"].backward()
    assert_close(rendered.samples.normal.grad, DATA["grad_normal"], atol=1e-5, rtol=1e-4)
    assert_close(rendered.opacity.grad, DATA["grad_opacity"], atol=1e-5, rtol=1e-4)
    assert_close(rendered.z_variance.grad, DATA["grad_z_variance"], atol=1e-5, rtol=1e-4)
    assert rendered.samples.weights.grad is None  # the orientation loss turns surfaces, it removes none


def test_a_weight_of_zero_asks_for_nothing():
    out = SceneLosses()({"loss_sds": torch.tensor(2.0)}, _rendered(normal=None), step=0)
    assert out["loss"] == 2 and "loss_orient" not in out
    with pytest.raises(ValueError, match="normals"):
        SceneLosses(orient=1.0)({"loss_sds": torch.tensor(2.0)}, _rendered(normal=None), step=0)
    with pytest.raises(BadConfig, match=r"losses\.opaque"):
        SceneLosses(opaque=[1.0, 2.0])


def test_an_empty_picture_has_finite_losses_and_gradients():
    empty = torch.zeros_like(DATA["opacity"]).requires_grad_(True)
    rendered = _rendered(opacity=empty, weights=torch.zeros_like(DATA["weights"]))
    out = SceneLosses(orient=1.0, sparsity=1.0, opaque=1.0, z_variance=1.0)({}, rendered, step=0)
    out["loss"].backward()
    assert torch.isfinite(out["loss"]) and torch.isfinite(empty.grad).all()
