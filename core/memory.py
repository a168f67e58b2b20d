"""How much memory a computation will take, found by running it on tensors without data."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _PeakCounter(TorchDispatchMode):
    """Counts the bytes of every storage that is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
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
    """Bytes alive at once while `computation` runs, beside what existed before; run it on the meta device."""
    counter = _PeakCounter()
    with torch.no_grad(), counter:
        computation()
    return counter.peak


@contextmanager
def on_meta(module: nn.Module) -> Iterator[None]:
    """For a while, `module` has parameters and buffers without data; its own come back untouched."""
    kept = [
        (table, name, tensor)
        for part in module.modules()
        for table in cast(tuple[dict[str, Tensor | None], ...], (part._parameters, part._buffers))
        for name, tensor in table.items()
        if tensor is not None
    ]
    try:
        for table, name, tensor in kept:
            empty = tensor.detach().to("meta")
            table[name] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
        yield
    finally:
        for table, name, tensor in kept:
            table[name] = tensor


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])
