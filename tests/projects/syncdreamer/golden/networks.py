"""Depth attention and the UNet with it, driven by the fixtures `depth_transformer` and `unet`."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from core.attention.depth import DepthTransformer
from core.checkpoints.rename import NameTable
from core.models.unet import walk_unet
from projects.syncdreamer import checkpoint
from projects.syncdreamer.model import SyncDreamer
from tests.golden_fixture import load, named
from tests.projects.syncdreamer import tiny
from tests.projects.syncdreamer.golden.common import build_denoiser, close, fill, unet_layout


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
def test_depth_transformer(folded):
    info, data = load("syncdreamer", "depth_transformer")
    kwargs = info["kwargs"]
    block = DepthTransformer(
        channels=kwargs["dim"],
        context_channels=kwargs["context_dim"],
        num_heads=kwargs["n_heads"],
        head_dim=kwargs["d_head"],
        folded=folded,
    )
    prefix = info["key_prefix"].rstrip(".")
    fill(block, NameTable([(a, b.removeprefix("x.")) for a, b in checkpoint.depth_pairs(prefix, "x")]))
    with torch.no_grad():
        projected, context = block.proj_in(data["x"]), block.proj_context(data["context"])
        close(projected, data["proj_in"], 1e-5)
        close(context, data["proj_context"], 1e-5)
        close(block.attend(projected, context), data["depth_attn"], 1e-5)
        close(block(data["x"], data["context"]), data["out"], 1e-5)
        close(block(data["x"], torch.zeros_like(data["context"])), data["out_zero_context"], 1e-5)
        close(data["x"] + block.empty_residual(data["x"]), data["out_zero_context"], 1e-5)


@pytest.fixture(scope="module")
def golden_unet():
    """The fixture, the UNet with its depth attention, and the volumes, finest first."""
    info, data = load("syncdreamer", "unet")
    model = build_denoiser(info["kwargs"], tiny.volume(channels=tuple(info["kwargs"]["volume_dims"])))
    table = checkpoint.denoiser_table(**unet_layout(info["kwargs"]), ours="")
    table = NameTable([(a, b) for a, b in table.pairs if a.startswith(info["key_prefix"])])
    network = {name: part for name, part in model.named_children() if name in ("unet", "depth_middle", "depth_up")}
    network = fill(nn.ModuleDict(network), table, exceptions=set(info["exceptions"]))
    assert sum(p.numel() for p in network.parameters()) == info["n_params"]
    return data, model, list(named(data, "volume_").values())[::-1]


def test_unet_with_depth_attention(golden_unet):
    data, model, volumes = golden_unet
    noisy = data["out"].shape[1]
    with torch.no_grad():
        out = model.predict(data["x"][:, :noisy], data["t"], data["context"], data["x"][:, noisy:], volumes)
    close(out, data["out"])


def encoder_layers(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The modules that end the official input_blocks, in their order."""
    layers: list[nn.Module] = [unet.conv_in]
    for block in unet.down_blocks:
        layers += getattr(block, "attentions", block.resnets)
        layers += block.downsamplers or ()
    return layers


def activations(model: SyncDreamer, data, volumes) -> dict[str, Tensor]:
    """What the UNet computes midway, under the fixture's names."""
    seen = {}

    def see(name: str, value: Tensor) -> Tensor:
        seen[f"h.{name}"] = value
        return value

    def middle(x: Tensor) -> Tensor:
        see("middle_block", x)
        return see("middle_conditions", model.depth_middle(x, volumes[-1]))

    def layer(x: Tensor, number: int) -> Tensor:
        see(f"output_blocks.{number}", x)
        site = number - model.sites[0][0]
        if site < 0:
            return x
        return see(f"output_conditions.{site}", model.depth_up[site](x, volumes[model.sites[site][2]]))

    def encoded(number: int, output: Tensor | tuple[Tensor]) -> None:
        see(f"input_blocks.{number}", output[0] if isinstance(output, tuple) else output)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, i=i: encoded(i, output))
        for i, module in enumerate(encoder_layers(model.unet))
    ]
    with torch.no_grad():
        walk_unet(model.unet, data["x"], data["t"], data["context"], after_middle=middle, after_up_layer=layer)
    for hook in hooks:
        hook.remove()
    return seen


def test_unet_intermediates(golden_unet):
    data, model, volumes = golden_unet
    seen = activations(model, data, volumes)
    names = [name for name in data if name.startswith("h.")]
    assert names
    for name in names:
        close(seen[name], data[name])
