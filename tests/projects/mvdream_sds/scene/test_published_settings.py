"""The two official configurations of text to 3D, as the programs build them: mvdream-sd21 and mvdream-sd21-shading."""

from typing import Any

import pytest
import torch

from core.compose import composed
from core.config import instantiate
from core.program import Program
from core.settings import settings
from projects.mvdream_sds.scene.background import NeuralEnvironmentMap
from projects.mvdream_sds.scene.materials import NoMaterial, PointLightMaterial

NEGATIVE = (
    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, cropped, "
    "lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, "
    "bad proportions"
)


@pytest.fixture(scope="module", params=["paper", "paper_shading"])
def published(request) -> tuple[bool, Any]:
    """Whether it is the shading one, and its settings."""
    program = Program("mvdream_sds", None, "")
    overrides = [f"+experiment=mvdream_sds/{request.param}", "prompt=x"]
    return request.param == "paper_shading", settings(program, composed(program, overrides))


def _has(made: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        found = getattr(made, name)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), name


def test_the_scene_is_the_published_one(published):
    shading, cfg = published
    with torch.device("meta"):
        scene = instantiate(cfg.scene)
    geometry, grid = scene.geometry, scene.geometry.encoding
    _has(geometry, radius=1.0, density_bias="blob_magic3d", blob_scale=10.0, blob_std=0.5)
    _has(geometry, normal_type="analytic" if shading else None)
    assert torch.equal(geometry.activate(torch.tensor([0.3])), torch.nn.functional.softplus(torch.tensor([0.3])))
    assert (len(grid.levels), grid.features_per_level, grid.out_dim) == (16, 2, 32)
    assert [level.resolution for level in grid.levels[:2]] + [grid.levels[-1].resolution] == [16, 24, 4096]
    assert [tuple(layer.weight.shape) for layer in geometry.density_network if hasattr(layer, "weight")] == [
        (64, 32),
        (1, 64),
    ]
    assert geometry.feature_network[-1].out_features == 3
    if shading:
        assert isinstance(scene.material, PointLightMaterial)
        _has(scene.material, ambient_only_steps=5000, textureless_prob=0.5, diffuse_prob=0.75, soft_shading=True)
        material = cfg.scene.material
        assert (list(material.ambient_color), list(material.diffuse_color)) == ([1.0] * 3, [0.0] * 3)
    else:
        assert isinstance(scene.material, NoMaterial)
    assert isinstance(scene.background, NeuralEnvironmentMap)
    _has(scene.background, random_aug=True, random_aug_prob=0.5, share_aug_bg=True, eval_color=None, sh_degree=3)
    renderer = scene.renderer
    _has(renderer, step=1.732 * 2 / 512, grid_prune=True, prune_alpha_threshold=True, randomized=True, chunk=160000)
    _has(renderer.occupancy, resolution=32, threshold=0.01, decay=0.95, every=16, warmup=256, bound=1.0)


def test_the_cameras_are_the_published_ones(published):
    _, cfg = published
    cameras = instantiate(cfg.cameras)
    _has(cameras, num_views=4, batch_size=[8, 4], width=[64, 256], height=[64, 256], resolution_milestones=[5000])
    _has(cameras, distance_range=(0.8, 1.0), relative_distance=True, fovy_range=(15.0, 60.0), zoom_range=(1.0, 1.0))
    _has(cameras, elevation_range=(0.0, 30.0), azimuth_range=(-180.0, 180.0), linear_sphere=True)
    _has(cameras, camera_perturb=0.0, center_perturb=0.0, up_perturb=0.0, progressive_until=0)
    _has(cameras, light_position_perturb=1.0, light_distance_range=(0.8, 1.5), light_strategy="dreamfusion")
    _has(instantiate(cfg.orbit), num_views=4, elevation_deg=15.0, distance=3.0, fovy_deg=40.0, width=512, height=512)


def test_the_guidance_losses_and_rates_are_the_published_ones(published):
    shading, cfg = published
    guidance = cfg.guidance
    wanted = {"guidance_scale": 50.0, "recon_loss": True, "recon_std_rescale": 0.5, "num_views": 4, "image_size": 256}
    assert {name: guidance[name] for name in wanted} == wanted
    assert list(guidance["min_step_percent"]) == [0, 0.98, 0.02, 8000]
    assert list(guidance["max_step_percent"]) == [0, 0.98, 0.50, 8000]
    losses = instantiate(cfg.losses)
    weights = {"sds": 1.0, "orient": 10.0 if shading else 0.0, "sparsity": 0.0, "opaque": 0.0, "z_variance": 0.0}
    assert losses.weights(0) == weights
    assert losses.weights(2500)["orient"] == (505.0 if shading else 0.0)
    assert losses.weights(9999)["orient"] == (1000.0 if shading else 0.0)
    lr, rates = cfg.optimizer.lr, cfg.rates
    assert lr * rates.geometry.encoding == pytest.approx(0.01)
    assert lr * rates.geometry.density_network == lr * rates.geometry.feature_network == pytest.approx(0.001)
    assert lr * rates.background == pytest.approx(0.001)
    assert cfg.optimizer._target_ == "torch.optim.AdamW"
    assert (list(cfg.optimizer.betas), cfg.optimizer.eps, cfg.optimizer.weight_decay) == ([0.9, 0.99], 1e-15, 0.01)
    assert (cfg.trainer.max_steps, cfg.seed, cfg.front_threshold, cfg.back_threshold) == (10000, 0, 30.0, 30.0)
    assert cfg.negative_prompt == NEGATIVE and cfg.view_dependent == "off"
