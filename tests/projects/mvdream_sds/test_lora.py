"""Adapters: merged or beside the weights they are the same; a file holds them alone, and a foreign one is refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from core.errors import BadCheckpoint, MissingWeights
from projects.mvdream_sds.lora import METADATA, attach, load_lora
from tests.projects.mvdream_sds import tiny_views as tiny

LORA = {"rank": 3, "alpha": 6.0}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The weights that all systems here have anyway, for adapters to be learnt on."""
    return str(written(tiny.system(), tmp_path_factory.mktemp("start") / "model.safetensors"))


def trained(start, **options):
    """A system whose adapters have learnt something."""
    made = tiny.system(lora=LORA | options, start=start)
    draw = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in made.trained().values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return made


def written(made, path):
    """The file that a training leaves."""
    save_file(made.export(made.state_dict()), path, metadata=made.export_metadata())
    return path


def noise_of(denoiser):
    draw = torch.Generator().manual_seed(9)
    x, context = (
        torch.randn(2, 4, 4, 8, 8, generator=draw),
        torch.randn(2, 1, tiny.LENGTH, tiny.CONTEXT, generator=draw),
    )
    with torch.no_grad():
        return denoiser.eval().predict(x, torch.tensor([30, 800]), context, torch.randn(2, 4, 16, generator=draw))


def test_fresh_adapters_change_nothing_and_alone_learn(start):
    made, plain = tiny.system(lora=LORA, start=start), tiny.system()
    assert_close(noise_of(made.denoiser), noise_of(plain.denoiser))
    assert all("lora" in name for name in made.trained())
    attentions = sum(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name, _ in plain.denoiser.named_modules())
    assert len(made.trained()) == 2 * attentions > 0
    frozen = {name: value.clone() for name, value in made.frozen()}
    optimizer = torch.optim.SGD(made.parameter_groups(1.0))
    for batch in (tiny.objects(), tiny.images()):
        made.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    optimizer.step()
    assert_close(dict(made.frozen()), frozen)
    assert not torch.allclose(noise_of(made.denoiser), noise_of(plain.denoiser), atol=1e-5)


def test_merged_adapters_equal_those_beside_the_weights(tmp_path, start):
    made = trained(start)
    path = written(made, tmp_path / "lora.safetensors")
    assert all(".lora_" in name for name in load_file(path))
    merged, beside = tiny.system().denoiser, tiny.system().denoiser
    load_lora(merged, path)
    attach(beside, path)
    assert_close(noise_of(beside), noise_of(made.denoiser))
    assert_close(noise_of(merged), noise_of(made.denoiser), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(noise_of(merged), noise_of(tiny.system().denoiser), atol=1e-3)
    assert set(merged.state_dict()) == set(tiny.system().denoiser.state_dict())


def test_a_file_without_metadata_has_the_scale_of_diffusers(tmp_path, start):
    made = trained(start, alpha=3.0)  # as much as the rank
    save_file(made.export(made.state_dict()), tmp_path / "lora.safetensors")
    plain = tiny.system().denoiser
    load_lora(plain, tmp_path / "lora.safetensors")
    assert_close(noise_of(plain), noise_of(made.denoiser), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda state: {name.replace("to_q", "to_x"): value for name, value in state.items()},
         "layers that this model lacks"),
        (lambda state: {name: value for name, value in state.items() if "lora_B" not in name}, "no adapters of a UNet"),
        (lambda state: {"weight": torch.ones(2)}, "no adapters of a UNet (weight)"),
        (lambda state: {name: value.repeat(1, 2) if "lora_A" in name else value for name, value in state.items()},
         "adapters of another model"),
        (lambda state: {name: value * torch.nan for name, value in state.items()}, "NaN"),
    ],
)  # fmt: skip
def test_a_foreign_file_is_refused(tmp_path, start, spoil, says):
    made, path = trained(start), tmp_path / "lora.safetensors"
    save_file(spoil(made.export(made.state_dict())), path)
    plain = tiny.system().denoiser
    before = noise_of(plain)
    with pytest.raises(BadCheckpoint, match=re.escape(says)):
        load_lora(plain, path)
    assert torch.equal(noise_of(plain), before)


def test_a_missing_file_and_metadata_that_mean_another_thing_are_refused(tmp_path, start):
    with pytest.raises(MissingWeights, match=r"lora=.*nothing"):
        load_lora(tiny.system().denoiser, tmp_path / "nothing")
    path = written(trained(start), tmp_path / "lora.safetensors")
    with pytest.raises(BadCheckpoint, match="predict the noise"):
        load_lora(tiny.system(prediction="velocity").denoiser, path)
    made = trained(start)
    save_file(made.export(made.state_dict()), path, metadata={METADATA: json.dumps({"unet.r": 3})})
    with pytest.raises(BadCheckpoint, match="no scale of the adapters"):
        load_lora(tiny.system().denoiser, path)
    said = {"unet.r": 3, "unet.lora_alpha": 3, "unet.use_rslora": True, "unet.rank_pattern": {}}
    save_file(made.export(made.state_dict()), path, metadata={METADATA: json.dumps(said)})
    with pytest.raises(BadCheckpoint, match="scaled by use_rslora, which is not read here"):
        load_lora(tiny.system().denoiser, path)
    with pytest.raises(BadCheckpoint, match=r"set model\.denoiser\.joint=true"):
        load_lora(tiny.system(joint=False).denoiser, written(made, path))
