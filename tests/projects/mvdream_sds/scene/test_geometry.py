"""The implicit volume against the official one, driven by the fixture alone."""

import pytest
import torch
from torch.testing import assert_close

from projects.mvdream_sds.scene.geometry import ImplicitVolume
from tests.golden_fixture import load
from tests.projects.mvdream_sds.scene.scenes import geometry_of, official_gradients, scene_of

INFO, DATA = load("mvdream_sds", "implicit_volume")
CASES = {case["name"]: case["config"] for case in INFO["cases"]}
SKIPPED = int(next(t["meaning"] for n, t in INFO["tensors"].items() if "normalgrad" in n).split("first ")[1].split()[0])


def _close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert_close(got, wanted, rtol=0, atol=tolerance * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("name", CASES)
def test_density_features_and_normals_are_the_official_ones(name):
    scene = scene_of(geometry_of(CASES[name], inward_finite_difference=True))
    matter = scene.geometry(DATA["points"])
    _close(matter.density, DATA[f"{name}_density"])
    _close(matter.features, DATA[f"{name}_features"])
    assert (matter.normal is None) == (f"{name}_normal" not in DATA)
    if matter.normal is not None:
        _close(matter.normal, DATA[f"{name}_normal"], 1e-4)
    with torch.no_grad():
        again = scene.geometry(DATA["points"])
    assert_close(again.density, matter.density)
    assert_close(again.normal, matter.normal if matter.normal is None else matter.normal.detach())
    assert not again.density.requires_grad and (again.normal is None or not again.normal.requires_grad)


def test_gradients_are_the_official_ones():
    config = next(config for config in CASES.values() if config["normal_type"] is None)
    scene, points = scene_of(geometry_of(config)), DATA["points"].clone().requires_grad_(True)
    matter = scene.geometry(points)
    ((matter.density * DATA["cot_density"]).sum() + (matter.features * DATA["cot_features"]).sum()).backward()
    found, compared = official_gradients(scene), [n for n in DATA if n.startswith("grad_geometry.")]
    for name in compared:
        _close(found[name.removeprefix("grad_")], DATA[name])
    _close(points.grad, DATA["grad_points"])
    assert compared
    bias = scene.geometry.bias(DATA["points"])
    _close(bias, DATA["bias_only_raw_density"])


def test_gradients_of_analytic_normals_are_the_official_ones():
    prefix = "analytic_normalgrad_"
    scene = scene_of(geometry_of(CASES["analytic"]))
    normal = scene.geometry(DATA["points"]).normal
    (normal[SKIPPED:] * DATA["cot_normal"][SKIPPED:]).sum().backward()
    found, compared = official_gradients(scene), [name for name in DATA if name.startswith(prefix)]
    for name in compared:
        _close(found[name.removeprefix(prefix)], DATA[name], 1e-4)
    assert compared


def test_finite_difference_normals_point_outward_unless_upstreams_sign_is_asked_for():
    outward, inward = (
        scene_of(geometry_of(CASES["finite_difference"], inward_finite_difference=flag)) for flag in (False, True)
    )
    assert_close(outward.geometry(DATA["points"]).normal, -inward.geometry(DATA["points"]).normal)
    agreement = (outward.geometry(DATA["points"]).normal * DATA["analytic_normal"]).sum(-1)
    assert agreement.mean() > 0.5


@pytest.mark.parametrize("kind", ["analytic", "finite_difference", "finite_difference_laplacian", "pred"])
def test_a_point_exactly_at_the_origin_has_finite_gradients(kind):
    geometry = geometry_of({**CASES["analytic"], "normal_type": kind})
    torch.nn.init.zeros_(geometry.density_network[-1].weight)  # the blob alone: its slope is undefined there
    points = torch.zeros(2, 3, requires_grad=True)
    matter = geometry(points)
    (matter.density.sum() + matter.normal.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in geometry.parameters() if p.grad is not None)
    assert torch.isfinite(points.grad).all() and torch.isfinite(matter.normal).all()


def test_normals_asked_of_a_field_without_any_are_refused():
    geometry: ImplicitVolume = geometry_of(CASES["none"])
    with pytest.raises(ValueError, match="normal_type"):
        geometry(DATA["points"], normals=True)
    with pytest.raises(ValueError, match="softplus"):
        geometry_of({**CASES["none"], "density_activation": "softpluss"})
