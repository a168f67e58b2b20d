"""How much memory a computation will take, found by running it on tensors without data; and what to say if it fails."""

import resource
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.errors import BadRequest

CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"  # what torch says where C++ runs out


def without_data() -> FakeTensorMode:
    """Within it, tensors are made without data: networks of any size are built and run at once, in no memory.

    They know shape, type and device, so kernels and `autocast` choose as they would with data. What was made before,
    with data, may take part, and counts once more where it does.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


class _PeakCounter(TorchDispatchMode):
    """Counts the bytes of every storage that is alive and was made within."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            # A view of what was made before, such as a transposed weight, is nothing new.
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                self._track(tensor.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


def peak_bytes(computation: Callable[[], object]) -> int:
    """Bytes alive at once while `computation` runs, beside what existed before; run it on tensors without data."""
    counter = _PeakCounter()
    with torch.no_grad(), counter:
        computation()
    return counter.peak


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def process_bytes() -> int:
    """The most memory that this process has held until now: Python and its libraries, before any work."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def out_of_memory_as_request(hint: str) -> Iterator[None]:
    """Turns the ways in which memory runs out into one BadRequest, which ends in `hint`: what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BadRequest(f"out of memory on the GPU ({str(error).splitlines()[0]}); {hint}") from error
    except MemoryError as error:
        raise BadRequest(f"out of memory; {hint}") from error
    except RuntimeError as error:
        if CPU_ALLOCATOR not in str(error):
            raise
        raise BadRequest(f"out of memory ({str(error).partition(CPU_ALLOCATOR + ': ')[2]}); {hint}") from error
