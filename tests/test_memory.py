"""Memory estimates count what is alive at once."""

import torch

from core.memory import module_bytes, peak_bytes

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
