"""Attention: fast paths equal their plain definitions."""

import copy
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.testing import assert_close

from core.attention.backend import attention
from core.attention.depth import DepthTransformer
from core.attention.multiview import (
    MultiViewAttnProcessor,
    SingleTokenAttnProcessor,
    idle_parameters,
    use_self_attention,
    use_single_token_cross_attention,
)
from core.errors import BadConfig
from core.models.unet import walk_unet


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=[16, 32], layers_per_block=1, norm_num_groups=8,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        attention_head_dim=2, cross_attention_dim=12,
    ).eval()  # fmt: skip


def test_walking_the_unet_is_calling_it(unet):
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 12)
    with torch.no_grad():
        assert_close(walk_unet(unet, x, t, context), unet(x, t, context).sample)


def test_recomputing_activations_changes_no_gradient(unet):
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 12)
    gradients = []
    for recompute in (False, True):
        unet.zero_grad()
        walk_unet(unet, x, t, context, recompute=recompute).square().mean().backward()
        gradients.append(unet.conv_in.weight.grad.clone())
    unet.zero_grad(set_to_none=True)
    assert_close(*gradients)


def test_cross_attention_to_one_token_is_a_constant(unet):
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 1, 12)
    with torch.no_grad():
        expected, before = unet(x, t, context).sample, unet.attn_processors
        use_single_token_cross_attention(unet)
        found = unet(x, t, context).sample
    unet.set_attn_processor(before)
    assert_close(found, expected, rtol=0, atol=1e-5)


def test_idle_parameters_are_exactly_those_without_a_gradient(unet):
    before = unet.attn_processors
    use_single_token_cross_attention(unet)
    walk_unet(unet, torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 1, 12)).square().mean().backward()
    unet.set_attn_processor(before)
    without = {name for name, parameter in unet.named_parameters() if parameter.grad is None}
    unet.zero_grad(set_to_none=True)
    idle = {id(parameter) for parameter in idle_parameters(unet)}
    assert without == {name for name, parameter in unet.named_parameters() if id(parameter) in idle}
    assert without


def test_the_one_token_shortcut_refuses_two_tokens(unet):
    attn = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    with pytest.raises(AssertionError, match="one context token"):
        SingleTokenAttnProcessor()(attn, torch.zeros(1, 4, 16), torch.zeros(1, 2, 12))


def test_joint_attention_of_one_view_is_ordinary_attention(unet):
    attn = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    x = torch.randn(3, 10, 16)
    with torch.no_grad():
        assert_close(MultiViewAttnProcessor(num_views=1)(attn, x), attn(x))


def test_joint_attention_sees_all_views_of_a_sample_and_no_other():
    from diffusers.models.attention_processor import Attention

    attn = Attention(query_dim=16, heads=2, dim_head=8)
    joint = MultiViewAttnProcessor(num_views=2)
    x = torch.randn(4, 5, 16)
    changed = x.clone()
    changed[1] += 1.0  # the second view of the first sample
    with torch.no_grad():
        before, after = joint(attn, x), joint(attn, changed)
        whole = attn(x.reshape(2, 10, 16)).reshape(4, 5, 16)
    assert_close(before, whole)
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[2:], after[2:])


def test_eager_self_attention_and_its_gradients_equal_the_fused_ones(unet):
    eager = copy.deepcopy(unet)
    use_self_attention(eager, "eager")
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 12)
    found, expected = eager(x, t, context).sample, unet(x, t, context).sample
    assert_close(found, expected)
    gradients = [
        torch.autograd.grad(out.square().sum(), model.conv_in.weight)
        for out, model in ((found, eager), (expected, unet))
    ]
    assert_close(*gradients)


def test_an_unknown_backend_is_refused_with_the_known_ones():
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(BadConfig, match="torch, eager, xformers"):
        attention(q, q, q, backend="flash9")


def test_xformers_is_refused_where_it_is_not_installed(unet, monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    before = unet.attn_processors
    with pytest.raises(BadConfig, match=r"attention=xformers is not usable here.*attention=torch"):
        use_self_attention(unet, "xformers")
    assert unet.attn_processors == before


@pytest.mark.parametrize("size", [2, 8])
def test_folded_depth_attention_equals_the_plain_one(size):
    torch.manual_seed(1)
    plain = DepthTransformer(channels=16, context_channels=16, folded=False)
    folded = DepthTransformer(channels=16, context_channels=16, folded=True)
    torch.nn.init.normal_(plain.proj_out[-1].weight, std=0.1)
    folded.load_state_dict(plain.state_dict())
    x, context = torch.randn(2, 16, size, size, requires_grad=True), torch.randn(2, 16, 6, size, size)
    outputs = [block(x, context) for block in (plain, folded)]
    assert_close(*outputs, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), x)[0] for out in outputs]
    assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_an_empty_volume_adds_the_same_whatever_the_features():
    torch.manual_seed(1)
    block = DepthTransformer(channels=16, context_channels=16)
    for module in block.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.normal_(module.bias)
    torch.nn.init.normal_(block.proj_out[-1].weight, std=0.1)
    x = torch.randn(3, 16, 4, 4)
    with torch.no_grad():
        residual = block.residual(x, torch.zeros(3, 16, 6, 4, 4))
        assert residual.abs().max() > 0.01
        assert_close(residual, block.empty_residual(x).expand_as(residual), rtol=0, atol=1e-5)
