"""Keeps a run's progress: what is counted, when it is saved, what happens when saving fails, and going back."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.errors import BadOutput
from core.files import atomic_folder
from core.provenance import code_version, config_hash, provenance
from core.training import checkpoints, resume, snapshots
from core.training.checkpoints import Snapshot
from core.training.ema import EMA
from core.training.module import TrainingModule
from core.training.randomness import derive

FAILED_SAVES = 3  # in a row; a run that cannot keep its progress stops then


@dataclass
class Position:
    """Where a run stands: all of its state besides weights, averages and optimiser."""

    step: int = 0  # steps taken
    finished: bool = True  # whether the last step was logged and validated too
    metric: float | None = None
    skipped: int = 0
    clipped: int = 0
    bad_in_row: int = 0
    rollbacks: int = 0
    broken: dict[str, str] = field(default_factory=dict)  # training items that could not be read, and why
    window: dict[str, list[float]] = field(default_factory=dict)  # (sum, count) since the last logged step

    def seed(self, seed: int) -> int:
        """The seed of the next step; after a rollback another one, or the same fault would come again."""
        return derive(seed, "rollback", self.rollbacks) if self.rollbacks else seed


class Keeper:
    """Saves and restores module, optimiser, average and position; only rank 0's writes (`writes`)."""

    def __init__(
        self,
        config: Mapping[str, Any],
        module: TrainingModule,
        optimizer: torch.optim.Optimizer,
        ema: EMA | None,
        say: Callable[[str], None],
        *,
        world_size: int,
        writes: bool,
    ) -> None:
        self.config, self.module, self.optimizer, self.ema, self.say = config, module, optimizer, ema, say
        self.writes = writes
        self.root = Path(config["out"]) / "checkpoints"
        self.slowest_s = 0.0
        self.failures = 0
        self.cpu_before_s = 0.0  # CPU seconds of the processes that this run continues
        self.spare: set[str] = set()  # broken checkpoints: reported, never deleted
        self.facts: dict[str, Any] = {
            "config": dict(config),
            "config_hash": config_hash(config),
            "code": code_version(),
            "world_size": world_size,
            "threads": torch.get_num_threads(),
            "frozen": snapshots.fingerprint(module),
        }

    def resume(self) -> Position:
        """Continues as `resume` says; the position is step 0 when there is nothing to continue."""
        if self.writes:
            checkpoints.remove_leftovers(self.root)
        snapshot, self.spare = resume.choose(Path(self.config["out"]), self.config["resume"], self.say)
        if snapshot is None:
            return Position()
        old, force = snapshot.state, self.config["force_resume"]
        resume.check_config(old["config"], self.config, force, self.say)
        resume.check_frozen(old["frozen"], self.facts["frozen"], force)
        for name, what in (("threads", "threads"), ("world_size", "processes")):
            if old[name] != self.facts[name]:
                self.say(f"{old[name]} {what} before, {self.facts[name]} now: results will differ in the last digits")
        self.cpu_before_s = old.get("cpu_seconds", 0.0)
        position = self._restore(snapshot)
        self.say(f"continuing from step {position.step}")
        return position

    def roll_back(self, rollbacks: int) -> Position | None:
        """Goes back to the newest valid checkpoint; None if there is none."""
        folder, _ = checkpoints.newest_valid(self.root)
        if folder is None:
            return None
        position = self._restore(checkpoints.load(folder))
        position.rollbacks = rollbacks
        position.bad_in_row = 0
        return position

    def save(self, position: Position, flush: Callable[[], None], must: bool) -> None:
        """Writes a checkpoint after `flush` brought the logs to the disk.

        Where it cannot be written the training goes on with the last one, unless this one `must` be, or several failed.
        """
        if not self.writes:
            return
        start = time.monotonic()
        try:
            flush()
            checkpoints.save(self.root, self._capture(position))
            trainer = self.config["trainer"]
            checkpoints.retire(self.root, trainer["keep_last"], trainer["keep_every"], self.spare)
        except BadOutput as error:
            self.failures += 1
            if must or self.failures >= FAILED_SAVES:
                raise
            self.say(f"checkpoint of step {position.step} not saved: {error}; the training goes on")
        else:
            self.failures = 0
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)

    def dump(self, position: Position) -> Path:
        """Leaves the present state beside the checkpoints, for someone to look at; nothing resumes from it."""
        root = Path(self.config["out"]) / "dump"
        return checkpoints.save(root, self._capture(position)) if self.writes else root

    def export(self) -> None:
        """Writes the finished weights, averaged if there is an average, to weights/model.safetensors."""
        state = dict(self.module.state_dict())
        if self.ema is not None:
            state |= {name: average.to(state[name]) for name, average in self.ema.averages.items()}
        record = provenance(self.config, seed=self.config["seed"]) | {"cpu_seconds": round(self.cpu_seconds())}
        with atomic_folder(Path(self.config["out"]) / "weights", overwrite=True) as folder:
            metadata = self.module.export_metadata()
            checkpoints.save_tensors(self.module.export(state), folder / "model.safetensors", metadata)
            checkpoints.save_json(record, folder / "provenance.json")

    def cpu_seconds(self) -> float:
        """User and system time of this process and of those that it continues."""
        return self.cpu_before_s + time.process_time()

    def _capture(self, position: Position) -> Snapshot:
        state = self.facts | {"position": asdict(position), "cpu_seconds": self.cpu_seconds()}
        return snapshots.capture(position.step, self.module, self.optimizer, self.ema, state)

    def _restore(self, snapshot: Snapshot) -> Position:
        snapshots.restore(snapshot, self.module, self.optimizer, self.ema)
        return Position(**snapshot.state["position"])
