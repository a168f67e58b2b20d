"""The pretended GPU refuses what a GPU refuses, computes what the CPU computes, and leaves nothing behind."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tests.devices import pretended

INDEX = torch.tensor([0, 1])
# Of two tensors that lie together: what else it takes comes to the first or to the second.
OPERATIONS = {
    "a sum": lambda far, near: far + near,
    "a sum in place": lambda far, near: near.add_(far),
    "a number that would hold it": lambda far, near: near[0, 0].add_(far[0, 0]),
    "a matrix product": lambda far, near: far @ near,
    "einsum": lambda far, near: torch.einsum("ij,jk->ik", far, near),
    "a layer": lambda far, near: torch.nn.Linear(2, 2, device=near.device)(far),
    "a convolution": lambda far, near: F.conv1d(far[None], near[:, :, None]),
    "a concatenation": lambda far, near: torch.cat([far, near]),
    "a stack of numbers": lambda far, near: torch.stack([far[0, 0], near[0, 0]]),
    "a choice": lambda far, near: torch.where(far > 0, far, near),
    "an embedding": lambda far, near: F.embedding(INDEX.to(near.device), far),
    "a bag of embeddings": lambda far, near: F.embedding_bag(INDEX[None].to(near.device), far, mode="sum"),
    "a gathering": lambda far, near: far.gather(0, INDEX[None].to(near.device)),
    "a selection": lambda far, near: far.index_select(0, INDEX.to(near.device)),
    "a scattering": lambda far, near: far[0].scatter_add(0, INDEX.to(far.device), near[0]),
    "an addition at places": lambda far, near: near[0].index_add(0, INDEX.to(far.device), far[0]),
    "values at places": lambda far, near: far[0].index_put((INDEX,), near[0]),
    "places on the GPU": lambda far, near: near[INDEX.to(far.device)],
    "a search": lambda far, near: torch.searchsorted(far[0], near[0]),
    "a sampled picture": lambda far, near: F.grid_sample(far[None, None], near[None, None], align_corners=False),
    "the CPU's generator": lambda far, near: draw(torch.Generator(near.device), far.device),
    "the GPU's generator": lambda far, near: draw(torch.Generator(far.device), near.device),
    "attention": lambda far, near: F.scaled_dot_product_attention(far[None], near[None], far[None]),
}
# What torch itself refuses, before the pretended GPU sees it.
SAID_BY_TORCH = {"attention": (RuntimeError, "Expected query, key, and value to have the same device type")}


def draw(generator, device):
    return torch.rand(2, generator=generator, device=device)


@pytest.mark.parametrize("name", OPERATIONS)
def test_tensors_go_together_on_one_device_and_not_on_two(name, gpu):
    operation, near = OPERATIONS[name], torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    # The devices alone are at fault: it works on either.
    assert operation(near.clone(), near.clone()).device.type == "cpu"
    assert operation(near.to(gpu), near.to(gpu)).device == gpu
    kind, message = SAID_BY_TORCH.get(name, (RuntimeError if torch.cuda.is_available() else pretended.Misplaced, None))
    with pytest.raises(kind, match=message):
        operation(near.to(gpu), near.clone())


@pytest.mark.parametrize("array", [torch.Tensor.numpy, np.asarray])
def test_what_is_on_the_gpu_becomes_an_array_only_by_way_of_the_cpu(array, gpu):
    far = torch.ones(2, device=gpu)
    assert array(far.cpu()).tolist() == [1, 1]
    # Torch itself refuses it: where nothing is real because of the subclass.
    with pytest.raises((TypeError, RuntimeError), match=r"can't convert cuda|not supported for tensor subclasses"):
        array(far)


@pytest.mark.parametrize("symbol", [None, "no_such_table"])
def test_where_torch_cannot_be_made_to_pretend_the_test_is_skipped_and_says_why(symbol, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if symbol is None:
        monkeypatch.setattr(pretended, "LIBRARY", tmp_path / "libc10.so")
    else:
        monkeypatch.setattr(pretended, "REGISTRY", symbol)
    why = f"no real GPU, and none can be pretended.*{symbol or 'libc10'}"
    with pytest.raises(pytest.skip.Exception, match=why), pretended.gpu():
        raise AssertionError


ROOT = Path(__file__).resolve().parents[2]
PINNED = f"\ntorch=={torch.__version__.partition('+')[0]}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.skipif(sys.platform != "linux" or not PINNED, reason="not on Linux with the torch of constraints.txt")
def test_no_test_is_skipped_on_linux_with_the_pinned_torch():
    try:
        with pretended.gpu() as device:
            assert torch.zeros(1, device=device).device == device
    except pytest.skip.Exception as skipped:
        pytest.fail(str(skipped))


def test_a_number_on_the_cpu_and_indices_there_are_taken(gpu):
    near = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    far = near.to(gpu)
    assert_close((far * near[0, 1]).cpu(), near * 2)
    assert_close(far[INDEX, INDEX].cpu(), near.diagonal())
    far[near > 2] = 0
    assert far.tolist() == [[1, 2], [0, 0]] and far.sum().item() == 3 and far.nonzero().device.type == "cuda"


def test_it_computes_what_the_cpu_computes_gradients_and_optimiser_too():
    def learnt(device):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2)).to(device)
        optimizer, x = torch.optim.AdamW(layers.parameters(), lr=0.1), torch.randn(4, 3).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            layers(x).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(layers.parameters(), 0.5)
            optimizer.step()
        return [parameter.detach().cpu() for parameter in layers.parameters()]

    here = learnt(torch.device("cpu"))
    with pretended.gpu() as device:
        there = learnt(device)
    assert_close(there, here)


def test_autocast_has_the_rules_of_cuda(gpu):
    x = torch.randn(4, 4, device=gpu)
    with torch.autocast("cuda", torch.float16):
        product = x @ x
        assert product.dtype == torch.float16 and product.softmax(-1).dtype == torch.float32
        assert F.layer_norm(product, (4,)).dtype == torch.float32  # the CPU's rules leave it in 16 bits
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.float32


def test_afterwards_everything_is_as_before():
    before = torch.Generator, torch.cuda.is_available(), torch.__future__.get_swap_module_params_on_conversion()
    with pytest.raises(ZeroDivisionError), pretended.gpu() as device:
        assert torch.Generator(device).device == device
        raise ZeroDivisionError
    after = torch.Generator, torch.cuda.is_available(), torch.__future__.get_swap_module_params_on_conversion()
    assert after == before
    if not torch.cuda.is_available():
        # Of a build for the CPU, and of one for GPUs on a machine without.
        with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA|HIP"):
            torch.zeros(1, device="cuda")
    assert type(torch.tensor([1.0]).requires_grad_().sum().cpu()) is torch.Tensor
