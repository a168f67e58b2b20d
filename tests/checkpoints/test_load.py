"""Checkpoint files of every kind and in every wrapper are read exactly."""

import logging
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from core.checkpoints.load import read_checkpoint
from tests.checkpoints.files import assert_same, refused, weights

# Kinds of files


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "older"])
def test_every_kind_of_tensor_comes_back_equal(tmp_path, new_format):
    whole = torch.randn(5, 6)
    tied = torch.randn(3)
    state = {
        "float": whole, "view": whole[1:3, ::2], "transposed": whole.T, "tied": tied, "tied too": tied,
        "half": torch.randn(3).half(), "brain": torch.randn(3).bfloat16(), "double": torch.randn(2).double(),
        "scalar": torch.tensor(2.5), "count": torch.tensor(7), "none": torch.zeros(0, 3), "flag": torch.tensor([True]),
        "bytes": torch.arange(5, dtype=torch.uint8), "parameter": nn.Parameter(torch.randn(2)),
        "expanded": torch.randn(1).expand(4),
    }  # fmt: skip
    path = tmp_path / "any.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new_format)
    assert_same(read_checkpoint(path), state)
    assert_same(read_checkpoint(path), state)  # from the converted copy


def test_types_without_a_storage_of_their_own_come_back_equal(tmp_path):
    state = {
        "eight": torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn),
        "unsigned": torch.tensor([65535]).to(torch.uint16),
    }
    path = tmp_path / "new.pt"
    torch.save(state, path)
    read = read_checkpoint(path)
    assert all(torch.equal(read[name].view(torch.uint8), state[name].view(torch.uint8)) for name in state)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.randn(3))
        self.register_buffer("shift", torch.randn(3))
        self.mask = torch.full((3,), float("-inf"), dtype=torch.float16)  # an attribute, not a weight

    def forward(self, x):
        return self.linear(x) * self.scale + self.shift + self.mask


def test_a_torchscript_archive_gives_its_parameters_and_buffers(tmp_path):
    model = nn.Sequential(Inner(), nn.ReLU(), Inner()).half()
    path = tmp_path / "ViT-L-14.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 3).half(), check_trace=False), path)
    assert_same(read_checkpoint(path), dict(model.state_dict()))


def test_safetensors_are_read_as_they_are(tmp_path):
    save_file(weights(), tmp_path / "model.safetensors")
    assert_same(read_checkpoint(tmp_path / "model.safetensors"), weights())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_content_decides_and_not_the_suffix(tmp_path):
    save_file(weights(), tmp_path / "model.ckpt")
    torch.save(weights(), tmp_path / "other.safetensors")
    assert_same(read_checkpoint(tmp_path / "model.ckpt"), weights())
    assert_same(read_checkpoint(tmp_path / "other.safetensors"), weights())


def test_the_types_in_the_file_are_stated(tmp_path, caplog):
    torch.save({"a": torch.zeros(2).half(), "b": torch.zeros(2).half(), "c": torch.zeros(1)}, tmp_path / "x.pt")
    with caplog.at_level(logging.INFO):
        read_checkpoint(tmp_path / "x.pt")
    assert "2 tensors of float16, 1 tensors of float32" in caplog.text


# Wrappers


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 1, "pytorch-lightning_version": "1.9"},
        lambda state: {"model": state, "ema": {"x": torch.zeros(1)}, "optimizer": {}},
        lambda state: {"module": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"model_state_dict": {f"_orig_mod.module.{name}": t for name, t in state.items()}},
        lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
        lambda state: {"state_dict": {name.replace("layer.", "layer._orig_mod."): t for name, t in state.items()}},
    ],
    ids=["none", "lightning", "model", "ddp", "compiled ddp", "model prefix", "compiled part"],
)
def test_known_wrappers_are_undone(tmp_path, wrap):  # fault 18
    torch.save(wrap(weights()), tmp_path / "x.ckpt")
    assert_same(read_checkpoint(tmp_path / "x.ckpt"), weights())


def test_a_latent_diffusion_unet_keeps_its_published_prefix(tmp_path):
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in weights().items()}
    torch.save({"state_dict": state}, tmp_path / "unet.ckpt")
    assert_same(read_checkpoint(tmp_path / "unet.ckpt"), state)


@pytest.mark.parametrize(
    "content",
    [{"weights": weights(), "epoch": 1}, {"state_dict": {"a": torch.zeros(1), "b": 3}}, [torch.zeros(1)], {}, 5],
    ids=["unknown wrapper", "a number among weights", "list", "empty", "number"],
)
def test_anything_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "named weights")


def test_the_moving_average_is_taken_only_when_asked_for(tmp_path):
    plain = {"model.diffusion_model.out.0.weight": torch.zeros(2), "first_stage_model.x": torch.ones(1)}
    average = {"model_ema.diffusion_modelout0weight": torch.ones(2), "model_ema.decay": torch.tensor(0.99)}
    path = tmp_path / "zero123.ckpt"
    torch.save({"state_dict": plain | average}, path)
    for _ in range(2):  # from the pickle, then from the converted copies
        assert_same(read_checkpoint(path), plain | average)
        assert_same(read_checkpoint(path, ema=True), plain | {"model.diffusion_model.out.0.weight": torch.ones(2)})
    torch.save({"model": {"x": torch.zeros(1)}, "ema": {"x": torch.ones(1)}}, tmp_path / "both.pt")
    assert_same(read_checkpoint(tmp_path / "both.pt", ema=True), {"x": torch.ones(1)})


def test_a_missing_or_unasked_average_is_refused(tmp_path):
    torch.save(weights(), tmp_path / "plain.pt")
    torch.save({"ema": weights()}, tmp_path / "average.pt")
    refused(tmp_path / "plain.pt", "no averaged weights", ema=True)
    refused(tmp_path / "average.pt", "averaged weights only .*ema=true")
