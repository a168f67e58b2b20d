"""Keeps a run's progress: what is counted, when it is saved, what happens when saving fails, and going back."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from core.cpu import cpu_seconds
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
        cpu_began_s: float,
    ) -> None:
        """
        Args:
            cpu_began_s: `cpu_seconds()` when the run began.
        """
        self.config, self.module, self.optimizer, self.ema, self.say = config, module, optimizer, ema, say
        self.writes = writes
        self.root = Path(config["out"]) / "checkpoints"
        self.slowest_s = 0.0
        self.failures = 0
        self.cpu_began_s = cpu_began_s
        self.cpu_before_s = 0.0  # CPU seconds of the processes that this run continues
        self.spare: set[str] = set()  # broken checkpoints: reported, never deleted
        self.origin: Snapshot | None = None  # where this process began, if not at step 0
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
        is_finished = snapshot.step >= self.config["trainer"]["max_steps"]
        if is_finished:
            resume.check_finished(old["config"], self.config, snapshot.step, self.say, self.module)
        else:
            resume.check_config(old["config"], self.config, force, self.say, self.module)
        resume.check_frozen(old["frozen"], self.facts["frozen"], force)
        for name, what in (("threads", "threads"), ("world_size", "processes")):
            if old[name] != self.facts[name] and not is_finished:
                self.say(f"{old[name]} {what} before, {self.facts[name]} now: results will differ in the last digits")
        self.cpu_before_s = old.get("cpu_seconds", 0.0)
        position = self._restore(snapshot)
        self.origin = Snapshot(snapshot.step, {}, old)
        self.say(f"finished at step {position.step} before" if is_finished else f"continuing from step {position.step}")
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

    def made_here(self, step: int) -> bool:
        """Whether this process took the step that the run stands at."""
        return self.origin is None or self.origin.step != step

    def export(self, step: int) -> None:
        """Writes the finished weights, averaged if there is an average, to weights/model.safetensors.

        Their record says with which settings and code they were made: those of the checkpoint that took the last step.
        Weights that are there already, with a record of that step, stay as they are.
        """
        made = self.facts if self.origin is None or self.made_here(step) else self.origin.state
        out = Path(self.config["out"]) / "weights"
        if not self.made_here(step) and _is_record_of(out, step, made["config"], self.module.harmless_settings):
            return
        state = dict(self.module.state_dict())
        if self.ema is not None:
            state |= {name: average.to(state[name]) for name, average in self.ema.averages.items()}
        record = provenance(made["config"], seed=made["config"]["seed"])
        record |= {"code": made["code"], "step": step, "cpu_seconds": math.ceil(self.cpu_seconds())}
        with atomic_folder(out, overwrite=True) as folder:
            metadata = self.module.export_metadata()
            checkpoints.save_tensors(self.module.export(state), folder / "model.safetensors", metadata)
            checkpoints.save_json(record, folder / "provenance.json")

    def cpu_seconds(self) -> float:
        """CPU seconds of this run: of this process, of its children that have ended, and of those that it continues."""
        return self.cpu_before_s + cpu_seconds() - self.cpu_began_s

    def _capture(self, position: Position) -> Snapshot:
        state = self.facts | {"position": asdict(position), "cpu_seconds": self.cpu_seconds()}
        return snapshots.capture(position.step, self.module, self.optimizer, self.ema, state)

    def _restore(self, snapshot: Snapshot) -> Position:
        snapshots.restore(snapshot, self.module, self.optimizer, self.ema)
        return Position(**snapshot.state["position"])


def _is_record_of(weights: Path, step: int, config: Mapping[str, Any], harmless: tuple[str, ...]) -> bool:
    """Whether a folder of exported weights is whole, of this step, and made with these settings but harmless ones."""
    try:
        record = json.loads((weights / "provenance.json").read_text(encoding="utf-8"))
        is_made_so = record["step"] == step and not resume.shaping(record["config"], config, harmless)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return is_made_so and (weights / "model.safetensors").is_file()
