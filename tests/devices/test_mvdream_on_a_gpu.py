"""Text to views and text to 3D compute on a GPU, in each precision: sampling, training, distillation, files."""

import copy
import math

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from core.training import run
from core.training.randomness import generator
from projects.mvdream_sds import export, pipeline, render
from projects.mvdream_sds.dreambooth import DreamBoothSystem
from projects.mvdream_sds.pipeline import make_views
from projects.mvdream_sds.scene.exporting import export as export_scene
from projects.mvdream_sds.scene.filming import render as render_scene
from projects.mvdream_sds.scene.isosurface import Isosurface
from projects.mvdream_sds.scene.run_settings import distillation
from projects.mvdream_sds.settings import Settings
from projects.mvdream_sds.switches import SCHEDULERS
from tests.devices.learning import PRECISIONS, SLOW, batch_on, computing_in, two_steps
from tests.devices.pretended import gpu_fabric
from tests.projects.mvdream_sds import generating
from tests.projects.mvdream_sds import tiny_views as tiny
from tests.projects.mvdream_sds.scene.distilling import settings
from tests.projects.untrained import NO_ESTIMATE, settings_of

ENCODER = "core.fields.hashgrid.ProgressiveBandHashGrid"
SCENE = "projects.mvdream_sds.scene"
LIT = {
    "scene__geometry__normal_type": "analytic",
    "scene__material": {"_target_": f"{SCENE}.materials.PointLightMaterial", "ambient_only_steps": 0,
                        "soft_shading": True, "color_activation": "sigmoid"},
    "scene__background": {"_target_": f"{SCENE}.background.NeuralEnvironmentMap", "share_aug_bg": False},
    "losses__orient": 10.0, "losses__sparsity": 1.0, "losses__opaque": 1.0, "losses__z_variance": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_text_becomes_views(precision, gpu):
    system = tiny.system().eval().requires_grad_(False).to(gpu)
    asked = Settings(samples=2, sample_steps=2, timestep_spacing="trailing", eta=0.5, batch_view_num=4, size=tiny.SIZE,
                     precision=precision)  # fmt: skip
    with computing_in(precision, system.denoiser.unet):
        made = make_views(system, "a red cube", "", asked)
    assert made.shape == (2, 4, 3, tiny.SIZE, tiny.SIZE) and made.isfinite().all() and made.device.type == "cpu"


BATCHES = {
    "objects": tiny.objects,
    "images": pytest.param(tiny.images, marks=SLOW),
    "pictures": pytest.param(tiny.pictures, marks=SLOW),
}


@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("precision", [None, pytest.param(torch.bfloat16, marks=SLOW)], ids=["32", "bf16"])
def test_two_steps_of_training_change_what_the_multi_view_model_trains(make, precision, gpu):
    two_steps(tiny.system(camera_drop=0.5, caption_drop=0.5), make(2), gpu, precision=precision)


def test_a_training_of_the_multi_view_model_shows_a_preview(gpu):
    system = tiny.system(preview_steps=2).to(gpu).eval()
    with torch.no_grad():
        picture = system.preview(batch_on(gpu, tiny.objects(1)), generator(0, 0, device=gpu))
    assert picture.shape[0] == 3 and picture.device == gpu and picture.isfinite().all()


@pytest.fixture
def start(tmp_path) -> str:
    """Weights to go on from."""
    made = tiny.system()
    save_file(made.export(made.state_dict()), tmp_path / "model.safetensors", metadata=made.export_metadata())
    return str(tmp_path / "model.safetensors")


@SLOW
def test_two_steps_of_training_change_adapters_and_they_alone(start, gpu):
    two_steps(tiny.system(start=start, lora={"rank": 2, "alpha": 2.0}), tiny.objects(), gpu)


@SLOW
def test_two_steps_of_teaching_a_subject_lead_away_from_the_weights_before(start, gpu):
    own = tiny.pictures(1)
    both = own | {f"class_{key}": value for key, value in own.items()}
    assert two_steps(tiny.system(DreamBoothSystem, start=start), both, gpu)["distance"] > 0


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=SLOW), pytest.param("fp16", marks=SLOW)])
def test_a_step_of_score_distillation(precision, tmp_path, gpu):
    module = run.build(distillation(settings(tmp_path, guidance__precision=precision, **LIT))).to(gpu).train()
    occupied = module.scene.renderer.occupancy.values.clone()
    with computing_in(precision.removeprefix("fp"), module.denoiser.unet):
        terms = module.loss({}, generator(0, 0, device=gpu))
    terms["loss"].backward()
    table = module.scene.geometry.encoding.params
    assert table.device == gpu and table.grad.abs().sum() > 0
    assert not torch.equal(module.scene.renderer.occupancy.values, occupied)
    module.eval()
    with torch.no_grad():
        assert module.preview({}, generator(0, 0, device=gpu)).isfinite().all()
    geometry = module.scene.geometry
    surface = Isosurface(resolution=8, threshold="auto")(geometry.density, geometry.radius, device=gpu)
    assert len(surface.mesh.faces) > 0


@SLOW
@pytest.mark.parametrize(
    "changes",
    [
        {"trainer__precision": "bf16"},
        {"recompute": True, **LIT},
        {"scene__renderer__grid_prune": False},
        {"guidance__recon_loss": False, "guidance__max_scenes": 1},
        {"directions": {"words": "after"}},
        *({**LIT, "scene__geometry__normal_type": kind} for kind in ("finite_difference", "pred")),
        {"grid": {"_target_": ENCODER, "start_level": 1, "start_step": 0, "update_steps": 1}},
    ],
)
def test_a_run_of_score_distillation(changes, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(run, "make_fabric", gpu_fabric)
    changes = copy.deepcopy(changes)
    if "grid" in changes:
        grid = settings(tmp_path)["scene"]["geometry"]["encoding"]
        changes = {"scene__geometry__encoding": changes.pop("grid") | {"grid": grid}}
    assert math.isfinite(run.run(distillation(settings(tmp_path / "run", trainer__max_steps=4, **changes))))


@SLOW
def test_a_scene_is_rendered_and_exported(tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(run, "make_fabric", gpu_fabric)
    run.run(distillation(settings(tmp_path / "run")))
    where = [f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "size=16"]
    asked = settings_of(render.main.program, [*where, "num_views=4"])
    render_scene(OmegaConf.create(asked | {"device": "cuda", "panels": ["rgb", "normal", "opacity"]}))
    small = ["texture_size=32", "isosurface.resolution=16", "num_views=2"]
    asked = settings_of(export.main.program, [*where, *small])
    for method, threshold in (("mt", "auto"), ("mc", "seen")):
        asked["isosurface"]["method"] = method
        made = {"device": "cuda", "threshold": threshold, "out": str(tmp_path / method)}
        assert export_scene(OmegaConf.create(asked | made))["mesh"]["num_faces"] > 0


@SLOW
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_generate_program_with_each_scheduler(scheduler, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(pipeline, "estimate_memory", lambda *_: NO_ESTIMATE)
    asked = {"scheduler": scheduler, "sample_steps": 2, "precision": "bf16", "device": "cuda"}
    cfg = generating.config(weights=str(generating.weights(tmp_path)), out=str(tmp_path / "out"), **asked)
    assert pipeline.generate(OmegaConf.create(cfg))[0]["status"] == "ok"
