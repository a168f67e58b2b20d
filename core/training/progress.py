"""What a person sees of a run: a bar with loss, speed and time left, or now and then a line in a log file."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0
SPEED_MEMORY = 0.95


class Bar:
    """Progress through the steps; `quiet` (ranks other than 0) shows nothing."""

    def __init__(self, name: str, total: int, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet)
        self.live = self.console.is_terminal and not quiet
        self.total = total
        self.step = 0
        self.speed = 0.0
        self.clock = self.line_clock = time.monotonic()
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        ]
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)
        self.task = self.bar.add_task(name, total=total, text="")
        self.quiet = quiet

    def __enter__(self) -> "Bar":
        if self.live:
            self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def begin(self, step: int) -> None:
        """Counts speed from here."""
        self.step, self.clock = step, time.monotonic()
        self.bar.update(self.task, completed=step)

    def say(self, message: str) -> None:
        """A line that stays."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def advance(self, step: int, loss: float) -> None:
        """Shows that `step` is done."""
        now = time.monotonic()
        momentary = max(0, step - self.step) / max(now - self.clock, 1e-9)
        self.speed = momentary if self.speed == 0 else SPEED_MEMORY * self.speed + (1 - SPEED_MEMORY) * momentary
        self.step, self.clock = step, now
        if self.quiet:
            return
        text = f"loss {loss:.4f}  {self.speed:.2f} steps/s"
        if self.live:
            self.bar.update(self.task, completed=step, text=text)
        elif now - self.line_clock > LINE_EVERY_S or step == self.total:
            self.line_clock = now
            left = time.strftime("%H:%M:%S", time.gmtime((self.total - step) / max(self.speed, 1e-9)))
            self.say(f"step {step}/{self.total}  {text}  {left} left")
