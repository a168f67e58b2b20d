"""Memory estimates count what is alive at once."""

import pytest
import torch

from core.errors import BadRequest
from core.memory import module_bytes, out_of_memory_as_request, peak_bytes, process_bytes, without_data

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


def test_what_was_there_before_is_not_counted_nor_is_a_view_of_it():
    weight = torch.empty(512, 512, device="meta")
    assert peak_bytes(lambda: torch.empty(1, 512, device="meta") @ weight.t()) == 2 * 512 * 4


def test_a_modules_bytes_are_its_parameters_and_buffers():
    assert module_bytes(torch.nn.BatchNorm1d(8)) == 8 * 4 * 4 + 8


def test_a_network_without_data_takes_no_memory_and_computes_in_the_precision_that_is_set():
    before = process_bytes()
    with without_data():
        layer = torch.nn.Linear(2**16, 2**16)  # 16 GiB
        x = torch.empty(4, 2**16)
        assert peak_bytes(lambda: layer(x)) == 4 * 2**16 * 4
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    assert module_bytes(layer) > 2**34 and process_bytes() < before + 2**28


def test_a_network_with_data_may_take_part():
    layer = torch.nn.Linear(8, 8)
    with without_data():
        weights, results = 8 * 8 * 4, 2 * 2 * 8 * 4  # such weights may be counted as made within
        assert results <= peak_bytes(lambda: layer(torch.empty(2, 8))) <= results + weights
    assert layer(torch.ones(1, 8)).isfinite().all()


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        lambda: torch.empty(2**55),
    ],
    ids=["Python", "CUDA", "torch's own"],
)
def test_memory_that_runs_out_is_one_line_with_what_to_do(fault):
    with pytest.raises(BadRequest, match=r"^out of memory.*; lower it$"), out_of_memory_as_request("lower it"):
        if callable(fault):
            fault()
        raise fault


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_as_request("lower it"):
        raise RuntimeError("shape mismatch")
