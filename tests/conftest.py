"""What holds for every test: one thread per worker, no network, no GPU unless a test is marked for one.

Those in `devices` pretend to have one, and use a real one where there is one.
"""

import os

# Before torch is imported anywhere: `-n 2` on two cores, and the same numbers on any machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

# Its files are no test files by name (tests/projects/syncdreamer/test_golden.py collects them), so pytest must be told.
pytest.register_assert_rewrite("tests.projects.syncdreamer.golden")

settings.register_profile("turntable", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("turntable")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their parameter alone: an archive carries the second it was made in, and every worker of
    `-n` must give a test the same name."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is none, asking torch only if there are such tests."""
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
