"""Fast paths of a CUDA machine equal the plain-torch references, values and gradients (make test-gpu)."""

import pytest
import torch
from torch.testing import assert_close

from core.attention.backend import attention
from core.fields.hashgrid import HashGrid

pytestmark = pytest.mark.gpu


def test_xformers_attention_equals_torchs():
    pytest.importorskip("xformers.ops")
    q, k, v = (torch.randn(2, 4, 64, 32, device="cuda", requires_grad=True) for _ in range(3))
    results = [attention(q, k, v, backend=backend) for backend in ("torch", "xformers")]
    assert_close(*results, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(result.square().sum(), q, retain_graph=True)[0] for result in results]
    assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_the_hash_grids_fast_path_equals_the_plain_one_on_a_gpu_too():
    options = {"num_levels": 6, "log2_size": 12, "base_resolution": 8, "growth": 1.5}
    plain, fast = (HashGrid(**options, backend=backend).cuda() for backend in ("plain", "torch"))
    with torch.no_grad():
        plain.params.normal_()
        fast.params.copy_(plain.params)
    points = torch.rand(5000, 3, device="cuda")
    results = []
    for grid in (plain, fast):
        x = points.clone().requires_grad_(True)
        out = grid(x)
        first = torch.autograd.grad(out.square().sum(), (x, grid.params), create_graph=True)
        results.append((out, *first, torch.autograd.grad(first[0].square().sum(), grid.params)[0]))
    for got, wanted in zip(results[1], results[0], strict=True):
        assert_close(got, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_tinycudanns_hash_grid_equals_the_torch_one():
    pytest.importorskip("tinycudann")
    options = {"num_levels": 4, "log2_size": 12, "base_resolution": 8, "growth": 1.5}
    plain, fast = HashGrid(**options).cuda(), HashGrid(**options, backend="tinycudann").cuda()
    with torch.no_grad():
        plain.params.normal_()
        fast.params.copy_(plain.params)
    points = torch.rand(500, 3, device="cuda")
    results = [grid(points) for grid in (plain, fast)]
    assert_close(*results, rtol=1e-4, atol=1e-4)
    gradients = [
        torch.autograd.grad(r.square().sum(), g.params)[0] for r, g in zip(results, (plain, fast), strict=True)
    ]
    assert_close(*gradients, rtol=1e-3, atol=1e-3)
