"""Signals only set a flag; the run saves at its step's end and then hands the signal to whoever handled it before."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Stop:
    """The flag: number of the signal that came, 0 for none."""

    def __init__(self) -> None:
        self.signum = 0
        self.previous: dict[int, Callable | int | None] = {}
        self.relay: Callable[[int], None] = lambda signum: None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait for the save
        self.signum = signum
        self.relay(signum)

    def hand_over(self, signum: int) -> None:
        """After the save: ends the program as the signal asks, or lets an earlier handler decide.

        A cluster's launcher may requeue the job, or swallow the signal; in the second case this returns.
        """
        self.signum = 0
        previous = self.previous.get(signum, signal.SIG_DFL)
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not callable(previous):
            raise SystemExit(128 + signum)
        previous(signum, None)


@contextmanager
def catching_signals() -> Iterator[Stop]:
    """Within the block the stopping signals set the flag that is yielded."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may install handlers
        return
    for caught in STOPPING:
        stop.previous[caught] = signal.signal(caught, stop)
    try:
        yield stop
    finally:
        for number, handler in stop.previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def relay_to(pids: Callable[[], list[int]]) -> Callable[[int], None]:
    """Passes a signal on to the processes that do the work."""

    def relay(signum: int) -> None:
        for pid in pids():
            os.kill(pid, signum)

    return relay
