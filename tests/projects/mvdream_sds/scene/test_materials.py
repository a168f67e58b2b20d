"""Background and materials against the official ones, driven by the fixtures alone."""

import random

import pytest
import torch
from torch.testing import assert_close

from core.fields.encodings import spherical_harmonics
from core.training.randomness import generator
from projects.mvdream_sds.scene.background import NeuralEnvironmentMap, SolidBackground
from projects.mvdream_sds.scene.draws import Seeded, Upstream
from projects.mvdream_sds.scene.materials import NoMaterial, PointLightMaterial
from tests.golden_fixture import load, rule_w_tensor

SKY, SKIES = load("mvdream_sds", "background")
STUFF, COLORS = load("mvdream_sds", "materials")
LIT = ("positions", "shading_normal", "light_positions")
WHITE = {"ambient_color": [1.0] * 3, "diffuse_color": [0.0] * 3}  # the published configuration's lights
LIGHTS_ON = max(int(name.removeprefix("eval_step")) for name in COLORS if name.startswith("eval_step"))


def _map(**options) -> NeuralEnvironmentMap:
    """The official map with rule W's weights."""
    background = NeuralEnvironmentMap(**options)
    for index, layer in enumerate(background.network):
        if hasattr(layer, "weight"):
            key = f"background.network.layers.{index}.weight"
            layer.weight.data = rule_w_tensor(key, layer.weight.shape)
    return background


def _seed() -> None:
    random.seed(SKY["seed"])
    torch.manual_seed(SKY["seed"])


def test_the_environment_map_is_the_official_one():
    flat = SKIES["dirs"].reshape(-1, 3)
    degrees = {3: "sh", 1: "sh_degree1", 2: "sh_degree2", 4: "sh_degree4"}
    for degree, name in degrees.items():
        assert_close(spherical_harmonics(flat, degree), SKIES[name], atol=1e-5, rtol=0)
    assert_close(_map(**SKY["config"]).eval()(SKIES["dirs"]), SKIES["color"], atol=1e-5, rtol=0)


def test_random_backgrounds_come_in_the_official_order():
    background, directions = _map(**SKY["aug_config"]).train(), SKIES["dirs"][:, :1, :1]
    _seed()
    colors = torch.stack([background(directions, Upstream()) for _ in SKIES["aug_outputs"]])
    assert_close(colors, SKIES["aug_outputs"], atol=1e-5, rtol=0)
    plain = background.eval()(directions)
    replaced = torch.tensor([not torch.allclose(color, plain) for color in SKIES["aug_outputs"]])
    assert torch.equal(replaced, SKIES["aug_used"])


def test_a_replaced_map_still_has_a_gradient_of_zero():
    background = _map(random_aug=True, random_aug_prob=1.0).train()
    background(SKIES["dirs"], Seeded(generator(0, 0))).sum().backward()
    assert all(not layer.weight.grad.any() for layer in background.network if hasattr(layer, "weight"))


def test_a_fixed_color_shows_in_evaluation_only():
    color = SKIES["eval_color_out"][0, 0, 0].tolist()
    background = _map(random_aug=False, eval_color=color).eval()
    assert_close(background(SKIES["dirs"][:, :1, :1]), SKIES["eval_color_out"])
    assert not torch.allclose(background.train()(SKIES["dirs"]), torch.tensor(color))


def test_a_solid_background_is_white_and_now_and_then_random_if_asked():
    directions = SKIES["dirs"]
    assert (SolidBackground().train()(directions) == 1).all()
    random_one = SolidBackground(random_aug=True, random_aug_prob=1.0, share_aug_bg=False).train()
    first, again = (random_one(directions, Seeded(generator(3, 7))) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])
    assert (random_one.eval()(directions) == 1).all()
    with pytest.raises(ValueError, match="draws"):
        random_one.train()(directions)
    with pytest.raises(ValueError, match="color"):
        SolidBackground(color=(1.0, 1.0))


def test_colors_without_light_are_the_official_ones():
    assert_close(NoMaterial()(COLORS["features"]), COLORS["no_material"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["albedo", "textureless", "diffuse"])
def test_shaded_colors_are_the_official_ones(kind):
    name = next(name for name in COLORS if name.startswith(f"point_light_{kind}"))
    material = PointLightMaterial()
    shading = material.shading(kind, ambient_ratio=float(name.split("amb")[1]))
    found = material(COLORS["features"], *(COLORS[each] for each in LIT), shading)
    assert_close(found, COLORS[name], atol=1e-5, rtol=0)


def test_evaluation_is_unlit_until_the_lights_come_on():
    for name in (name for name in COLORS if name.startswith("eval_step")):
        material = PointLightMaterial(**WHITE, ambient_only_steps=LIGHTS_ON).eval()
        shading = material.choose(int(name.removeprefix("eval_step")), None)
        found = material(COLORS["features"], *(COLORS[each] for each in LIT), shading)
        assert_close(found, COLORS[name], atol=1e-5, rtol=0)
    material = PointLightMaterial(ambient_only_steps=0).eval()
    found = material(COLORS["features"], *(COLORS[each] for each in LIT), material.choose(0, None))
    assert_close(found, COLORS["default_eval"], atol=1e-5, rtol=0)
    assert_close(material.albedo(COLORS["features"]), COLORS["export_albedo"], atol=1e-5, rtol=0)


def test_training_shades_in_the_official_order_of_coins():
    material = PointLightMaterial(**WHITE, ambient_only_steps=LIGHTS_ON, soft_shading=True).train()
    random.seed(STUFF["seed"])
    for wanted in COLORS["train_seq"]:
        shading = material.choose(LIGHTS_ON, Upstream())
        found = material(COLORS["features"], *(COLORS[each] for each in LIT), shading)
        assert_close(found, wanted, atol=1e-5, rtol=0)


def test_shading_is_a_function_of_seed_and_step():
    material = PointLightMaterial(soft_shading=True, ambient_only_steps=0).train()
    kinds = [material.choose(9, Seeded(generator(0, step))).kind for step in range(60)]
    assert kinds == [material.choose(9, Seeded(generator(0, step))).kind for step in range(60)]
    assert set(kinds) == {"albedo", "textureless", "diffuse"}
