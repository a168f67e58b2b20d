"""SyncDreamer with xformers' attention, which a stand-in plays where the package is not installed."""

import sys
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from core.config import check_targets
from core.errors import BadConfig
from core.settings import composed, settings
from projects.syncdreamer import generate
from tests.projects.syncdreamer import tiny


def plain_attention(q, k, v):
    """What xformers.ops.memory_efficient_attention computes: [b, l, h, d], scaled by 1 / sqrt(d)."""
    weights = torch.einsum("blhd,bmhd->bhlm", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", weights, v)


@pytest.fixture
def calls(monkeypatch):
    """How often the stand-in was asked, and for which shapes."""
    seen = []

    def memory_efficient_attention(q, k, v):
        seen.append(tuple(q.shape))
        return plain_attention(q, k, v)

    package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    return seen


def test_xformers_changes_the_kernel_and_not_the_numbers(calls):
    torch.manual_seed(0)
    plain = tiny.denoiser().eval()
    fast = tiny.denoiser(attention="xformers").eval()
    fast.load_state_dict(plain.state_dict())
    generator = torch.Generator().manual_seed(1)
    x, latents = torch.randn(2, 3, 4, 8, 8, generator=generator)
    context = torch.randn(3, 1, tiny.CONTEXT, generator=generator)
    with torch.no_grad():
        expected = plain.predict(x, torch.tensor([10, 500, 900]), context, latents, None)
        assert not calls
        found = fast.predict(x, torch.tensor([10, 500, 900]), context, latents, None)
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    num_layers = sum(name.endswith("attn1") for name, _ in fast.unet.named_modules())
    assert len(calls) == num_layers > 0 and all(len(shape) == 4 for shape in calls)


def test_xformers_chosen_where_it_is_not_installed_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(BadConfig, match=r"attention=xformers is not usable here.*choose attention=torch"):
        tiny.denoiser(attention="xformers")


@pytest.mark.parametrize("experiment", [[], ["+experiment=syncdreamer/toybox"]])
def test_the_setting_is_a_key_of_both_models(experiment):
    typed = ["input=x.png", "elevation=20", *experiment, "model.denoiser.attention=xformers"]
    cfg = settings(generate.main.program, composed(generate.main.program, typed))
    assert cfg.model.denoiser.attention == "xformers"
    cfg.model.denoiser.attention = "flash9"
    with pytest.raises(BadConfig, match="one of torch, eager, xformers"):
        check_targets(cfg)
