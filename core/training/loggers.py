"""Where a run's numbers and pictures go: metrics.csv always, TensorBoard and wandb by choice.

`metrics.csv` has one row per logged step and no wall-clock column, so that a resumed run's file equals an uninterrupted
one's. A failing disk or network never stops the training: it is reported once, and rows are kept for the next attempt.
"""

import csv
import io
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from core.errors import BadOutput
from core.files import atomic_file

WANDB_WAIT_S = 30.0  # for the network, once; then the run is logged offline
Say = Callable[[str], None]


class MetricsFile:
    """A CSV table of steps; columns are added when they first come."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Keeps the rows up to `last_step`: later ones belong to steps that will be taken again."""
        self.path = path
        self.rows: list[dict[str, str]] = []
        self.columns = ["step"]
        self.written = 0
        if path.is_file():
            complete = path.read_text().rpartition("\n")[0]  # a killed run may leave half a row
            reader = csv.DictReader(io.StringIO(complete))
            self.columns = list(reader.fieldnames or self.columns)
            self.rows = [row for row in reader if (row.get("step") or "").isdigit()]
            self.forget_after(last_step)

    def forget_after(self, step: int) -> None:
        """Drops the rows of later steps, and columns that only they had."""
        self.rows = [row for row in self.rows if int(row["step"]) <= step]
        self.columns = [name for name in self.columns if name == "step" or any(row.get(name) for row in self.rows)]
        self.rows = [{name: row[name] for name in self.columns if row.get(name)} for row in self.rows]
        self.rewrite()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the row of a step, at once on the disk."""
        new = [name for name in values if name not in self.columns]
        self.columns += new
        # A step interrupted between its row and its save is logged again, and replaces its row.
        again = bool(self.rows) and self.rows[-1]["step"] == str(step)
        self.rows = self.rows[:-1] if again else self.rows
        self.rows.append({"step": str(step)} | {name: repr(float(value)) for name, value in values.items()})
        if new or again or self.written != len(self.rows) - 1:
            return self.rewrite()
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(self.rows[-1])
        self.written = len(self.rows)
        return None

    def rewrite(self) -> None:
        """Writes the whole table, atomically."""
        self.written = -1
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        self.written = len(self.rows)

    def flush(self) -> None:
        """Makes sure that the rows survive a power failure: a checkpoint must not be newer than its rows."""
        if self.written != len(self.rows):
            self.rewrite()
        if self.path.is_file():
            with self.path.open() as file:
                os.fsync(file.fileno())


class Logs:
    """All sinks of one run."""

    def __init__(
        self,
        out: Path,
        last_step: int,
        say: Say,
        *,
        config: Mapping[str, Any],
        name: str,
        tensorboard: bool = True,
        wandb: str = "disabled",
        project: str = "turntable",
    ) -> None:
        self.out = out
        self.say = say
        self.metrics = MetricsFile(out / "metrics.csv", last_step)
        self.broken: set[str] = set()
        self.board: Any = None
        self.wandb: Any = None
        if tensorboard:
            self._try("TensorBoard", lambda: self._open_board(last_step))
        if wandb != "disabled":
            self._try("wandb", lambda: self._open_wandb(wandb, project, name, config))

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Logs a step's numbers; `timing` stays out of metrics.csv."""
        self._try("metrics.csv", lambda: self.metrics.add(step, values), once=False)
        both = {**values, **timing}
        finite = {key: value for key, value in both.items() if math.isfinite(value)}
        if self.board is not None:
            self._try("TensorBoard", lambda: [self.board.add_scalar(key, value, step) for key, value in finite.items()])
        if self.wandb is not None:
            self._try("wandb", lambda: self.wandb.log(finite, step=step))

    def picture(self, step: int, picture: Float[Tensor, "3 height width"]) -> None:
        """Writes samples/<step>.png and shows it in TensorBoard and wandb."""
        from core.images import write_image  # imported here: it brings the image codecs with it

        path = self.out / "samples" / f"{step:08d}.png"
        self._try("samples", lambda: write_image(path, picture), once=False)
        if self.board is not None:
            self._try("TensorBoard", lambda: self.board.add_image("preview", picture, step))
        if self.wandb is not None:
            self._try("wandb", lambda: self._log_picture(path, step))

    def record(self, name: str, events: Sequence[Mapping[str, Any]]) -> None:
        """Adds events to a file of one JSON object per line."""
        lines = "".join(json.dumps(event) + "\n" for event in events)
        self._try(name, lambda: _append(self.out / name, lines), once=False)

    def flush(self) -> None:
        """Brings everything to the disk; raises BadOutput when metrics.csv cannot be written."""
        try:
            self.metrics.flush()
        except OSError as error:
            raise BadOutput(f"cannot write {str(self.metrics.path)!r}: {error.strerror}; free space") from error
        if self.board is not None:
            self._try("TensorBoard", self.board.flush)

    def close(self) -> None:
        """Ends the sinks."""
        if self.board is not None:
            self._try("TensorBoard", self.board.close)
        if self.wandb is not None:
            self._try("wandb", self.wandb.finish)

    def _open_board(self, last_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run logged after its last checkpoint is hidden: those steps come again.
        purge = last_step + 1 if last_step else None
        self.board = SummaryWriter(str(self.out / "tensorboard"), purge_step=purge, flush_secs=30)

    def _open_wandb(self, mode: str, project: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb

        if mode == "online" and not wandb.login(prompt=False, verify=False):
            self.say("wandb: no key on this machine, so logging offline; `wandb sync` uploads the run later")
            mode = "offline"
        id_file = self.out / "wandb_id.txt"
        if not id_file.is_file():
            with atomic_file(id_file) as temporary:
                temporary.write_text(uuid.uuid4().hex[:12] + "\n")
        options: dict[str, Any] = {
            "id": id_file.read_text().strip(),  # a requeued job goes on in the same run
            "resume": "allow",
            "project": project,
            "name": name,
            "dir": str(self.out),
            "config": dict(config),
            "settings": wandb.Settings(init_timeout=WANDB_WAIT_S, silent=True),
        }
        try:
            self.wandb = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
        except wandb.Error as error:
            if mode == "offline":
                raise
            self.say(f"wandb: {' '.join(str(error).split())}; logging offline, `wandb sync` uploads the run later")
            wandb.teardown()  # it holds on to the run's id
            self.wandb = wandb.init(mode="offline", **options)

    def _log_picture(self, path: Path, step: int) -> None:
        import wandb

        self.wandb.log({"preview": wandb.Image(str(path))}, step=step)

    def _try(self, sink: str, action: Callable[[], Any], once: bool = True) -> None:
        """Runs `action`; a failure is reported, and switches an optional sink off."""
        try:
            action()
            self.broken.discard(sink)
        except Exception as error:  # third-party sinks raise anything
            if sink not in self.broken:
                self.say(f"{sink}: {type(error).__name__}: {error}; the training goes on without it")
            self.broken.add(sink)
            if once and sink == "TensorBoard":
                self.board = None
            if once and sink == "wandb":
                self.wandb = None


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
