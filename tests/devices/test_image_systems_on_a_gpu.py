"""One image to views computes on a GPU, in each precision: SyncDreamer and ViewFusion, sampling and training."""

import pytest
import torch

from core.device import autocast
from core.training.randomness import generator
from projects.syncdreamer.sampling import make_samples
from projects.syncdreamer.settings import Settings
from projects.syncdreamer.system import SyncDreamerSystem
from projects.viewfusion.autoregression import Draws, ViewFusion
from projects.viewfusion.fusion import circle_plan
from projects.viewfusion.switches import FUSIONS
from projects.viewfusion.system import Zero123System
from tests.devices.learning import PRECISIONS, SLOW, batch_on, computing_in, two_steps
from tests.projects.syncdreamer import tiny
from tests.projects.viewfusion import small


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def syncdreamer(given: str) -> tuple[SyncDreamerSystem, dict[str, torch.Tensor]]:
    """A system that trains all it can, and a batch of one object."""
    system = tiny.system(finetune_unet=True, finetune_projection=True, preview_steps=1)
    encoded = {"target_moments": draw(1, 16, 8, 8, 8), "input_moments": draw(1, 8, 8, 8)}
    batches = {
        "encoded": encoded | {"input_embedding": draw(1, 1, tiny.CONTEXT)},
        "pictures": {"target_pixels": draw(1, 16, 3, 32, 32), "input_pixels": draw(1, 3, 32, 32)},
    }
    return system, batches[given] | {"input_elevation": torch.tensor([[0.3]])}


def zero123(given: str) -> tuple[Zero123System, dict[str, torch.Tensor]]:
    """ViewFusion's Zero-1-to-3 and a batch of two pairs."""
    parts = {"denoiser": small.denoiser(), "latents": tiny.latents(), "image_encoder": tiny.image_encoder()}
    encoded = {"target_moments": draw(2, 8, 8, 8), "input_moments": draw(2, 8, 8, 8)}
    batches = {
        "encoded": encoded | {"input_embedding": draw(2, 1, tiny.CONTEXT)},
        "pictures": {"target_pixels": draw(2, 3, 32, 32), "input_pixels": draw(2, 3, 32, 32)},
    }
    return Zero123System(**parts, preview_steps=1), batches[given] | {"pose": draw(2, 4)}


SYSTEMS = pytest.mark.parametrize("make", [syncdreamer, zero123])


@SYSTEMS
@pytest.mark.parametrize("precision", [None, pytest.param(torch.bfloat16, marks=SLOW)], ids=["32", "bf16"])
def test_two_steps_of_training_change_what_is_trained(make, precision, gpu):
    two_steps(*make("encoded"), gpu, precision=precision)


@SLOW
@SYSTEMS
def test_two_steps_of_training_on_pictures_change_what_is_trained(make, gpu):
    two_steps(*make("pictures"), gpu)


@SLOW
@SYSTEMS
@pytest.mark.parametrize("given", ["encoded", "pictures"])
def test_a_training_shows_a_preview(make, given, gpu):
    system, batch = make(given)
    with torch.no_grad():
        picture = system.to(gpu).eval().preview(batch_on(gpu, batch), generator(0, 0, device=gpu))
    assert picture.shape[0] == 3 and picture.device == gpu and picture.isfinite().all()


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
