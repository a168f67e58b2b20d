"""One image to views computes on a GPU, in each precision: SyncDreamer and ViewFusion, sampling and training."""

import math

import pytest
import torch

from core.device import autocast
from core.training.randomness import generator
from projects.syncdreamer.sampling import make_samples
from projects.syncdreamer.settings import Settings
from projects.viewfusion.autoregression import Draws, ViewFusion
from projects.viewfusion.fusion import circle_plan
from projects.viewfusion.switches import FUSIONS
from projects.viewfusion.system import Zero123System
from tests.devices.learning import PRECISIONS, SLOW, batch_on, computing_in, learns
from tests.projects.syncdreamer import tiny
from tests.projects.viewfusion import small

TRAINED_IN = pytest.mark.parametrize("precision", [None, pytest.param(torch.bfloat16, marks=SLOW)], ids=["32", "bf16"])


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def previewed(system, batch, device) -> torch.Tensor:
    with torch.no_grad():
        return system.eval().preview(batch_on(device, batch), generator(0, 0, device=device))


@TRAINED_IN
def test_syncdreamer_learns(precision, gpu):
    system = tiny.system(finetune_unet=True, finetune_projection=True, preview_steps=1)
    encoded = {"target_moments": draw(1, 16, 8, 8, 8), "input_moments": draw(1, 8, 8, 8)}
    batch = encoded | {"input_embedding": draw(1, 1, tiny.CONTEXT), "input_elevation": torch.tensor([[0.3]])}
    assert math.isfinite(learns(system, batch, gpu, precision=precision)["loss"])
    if precision is not None:
        pictures = {"target_pixels": draw(1, 16, 3, 32, 32), "input_pixels": draw(1, 3, 32, 32)}
        for given in (batch, pictures | {"input_elevation": torch.tensor([[0.3]])}):
            assert math.isfinite(learns(system, given, gpu)["loss"])
            assert previewed(system, given, gpu).isfinite().all()


@TRAINED_IN
def test_viewfusions_zero123_learns(precision, gpu):
    parts = {"denoiser": small.denoiser(), "latents": tiny.latents(), "image_encoder": tiny.image_encoder()}
    system, pose = Zero123System(**parts, preview_steps=1), {"pose": draw(2, 4)}
    encoded = {"target_moments": draw(2, 8, 8, 8), "input_moments": draw(2, 8, 8, 8)}
    batch = encoded | pose | {"input_embedding": draw(2, 1, tiny.CONTEXT)}
    assert math.isfinite(learns(system, batch, gpu, precision=precision)["loss"])
    if precision is not None:
        for given in (batch, pose | {"target_pixels": draw(2, 3, 32, 32), "input_pixels": draw(2, 3, 32, 32)}):
            assert math.isfinite(learns(system, given, gpu)["loss"])
            assert previewed(system, given, gpu).isfinite().all()


@SLOW
@pytest.mark.parametrize("precision", PRECISIONS)
def test_syncdreamer_makes_views(precision, gpu):
    system = tiny.system().eval().requires_grad_(False).to(gpu)
    rgba = torch.ones(4, 32, 32)
    rgba[3, :8] = 0
    asked = Settings(sample_num=1, sample_steps=2, batch_view_num=5, precision=precision)
    with computing_in(precision, system.denoiser.unet):
        (views,) = make_samples(system, rgba, asked, lambda: None).views
    assert views.shape == (16, 4, 32, 32) and views.isfinite().all() and views.device.type == "cpu"


@SLOW
@pytest.mark.parametrize(
    ("fusion", "precision"), [*((fusion, "32") for fusion in FUSIONS), *((min(FUSIONS), p) for p in ("bf16", "16"))]
)
def test_viewfusion_makes_views(fusion, precision, gpu):
    parts = {name: part.to(gpu) for name, part in small.parts().items()}
    model = ViewFusion(**parts, **small.STEPS, fusion=fusion)
    inputs = torch.tensor([[1.0, 0.3, 1.6], [1.3, 2.0, 1.5]])
    steps = model.plan(circle_plan(inputs, 3), inputs)
    with computing_in(precision, model.denoiser.unet), autocast(gpu, precision):
        views = model.views(small.pictures(2).to(gpu), steps, Draws(generator(0, 0)))
    assert views.device == gpu and views.shape[1:] == (3, small.SIZE, small.SIZE) and views.isfinite().all()
