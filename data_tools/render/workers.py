"""The processes that draw, each an object at a time."""

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from core.errors import BadMesh


class Workers:
    """Renders items on processes ahead of being asked; results come in whatever order they are asked for.

    With one process everything happens in this one. A process that dies (out of memory, as a rule) takes its neighbours
    along: its item is tried once more, alone, fails if it dies again, and the rest goes on with new processes.
    """

    def __init__(self, processes: int, items: Sequence[Any], render: Callable[[Any], dict[str, Any]]) -> None:
        """
        Args:
            items: each with the mesh's file as `path`.
            render: an item -> its record.
        """
        self.processes, self.items, self.render = processes, list(items), render
        self.pool: ProcessPoolExecutor | None = None
        self.jobs: dict[Any, Future] = {}

    def __enter__(self) -> "Workers":
        if self.processes > 1:
            self._start(self.items)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def result(self, item: Any) -> dict[str, Any]:
        """The item's record, or what went wrong with it."""
        if self.pool is None:
            return self.render(item)
        try:
            return self.jobs[item].result()
        except BrokenProcessPool:
            self.pool.shutdown()
        try:
            with ProcessPoolExecutor(1, initializer=_start_worker) as alone:
                return alone.submit(self.render, item).result()
        except BrokenProcessPool as error:
            raise BadMesh(f"rendering {item.path.name!r} ended its process; out of memory?") from error
        finally:
            self._start(self.items[self.items.index(item) + 1 :])

    def _start(self, items: Sequence[Any]) -> None:
        self.pool = ProcessPoolExecutor(self.processes, initializer=_start_worker)
        self.jobs = {item: self.pool.submit(self.render, item) for item in items}


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which lets running objects finish
