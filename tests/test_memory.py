"""Memory estimates count what is alive at once."""

import torch

from core.memory import module_bytes, on_meta, peak_bytes

MIB = 2**20


def test_the_peak_counts_what_is_alive_at_once_and_not_what_was_freed():
    def chain():
        x = torch.empty(MIB // 4, device="meta")
        for _ in range(10):
            x = x + 1
        return x

    assert 2 * MIB <= peak_bytes(chain) <= 3 * MIB


def test_tensors_kept_together_add_up():
    assert peak_bytes(lambda: [torch.empty(MIB // 4, device="meta") for _ in range(10)]) == 10 * MIB


def test_a_modules_bytes_are_its_parameters_and_buffers():
    assert module_bytes(torch.nn.BatchNorm1d(8)) == 8 * 4 * 4 + 8


def test_a_module_comes_back_from_meta_with_the_very_same_tensors():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).eval()
    before = dict([*module.named_parameters(), *module.named_buffers()])
    with on_meta(module):
        assert module(torch.empty(2, 3, device="meta")).is_meta
    after = dict([*module.named_parameters(), *module.named_buffers()])
    assert all(after[name] is tensor for name, tensor in before.items())
