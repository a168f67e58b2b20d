"""The loop over steps: read, learn, log, look, save; and what is done about what goes wrong."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader

from core.config import instantiate
from core.errors import BadConfig, BadData, BadRequest
from core.training.ema import EMA
from core.training.keeper import Keeper
from core.training.loader import Broken, Plan, train_loader
from core.training.loggers import Logs
from core.training.module import TrainingModule
from core.training.progress import Bar
from core.training.signals import Stop
from core.training.step import Outcome, Stepper
from core.training.validation import evaluating, preview, validate

SIGNAL_SECONDS = 5.0  # the longest wait for the signal of a worker's end, which breaks it off
Step = tuple[list[Mapping[str, Any]], list[Broken]]


class Loop:
    """One process's part of a run."""

    def __init__(
        self, fabric: Fabric, config: Mapping[str, Any], module: TrainingModule, stop: Stop, *, cpu_began_s: float
    ) -> None:
        self.fabric, self.module, self.stop = fabric, module, stop
        self.config, self.trainer, self.data = config, config["trainer"], config["data"]
        self.out = Path(config["out"])
        self.started = time.monotonic()
        self.train_items = instantiate(self.data["train"])
        self.val_items = instantiate(self.data["val"]) if self.data.get("val") else None
        if self.val_items is not None and len(self.val_items) == 0:
            raise BadData("the validation set is empty; check data.val (null: no validation)")
        shown = instantiate(self.data["preview"]) if self.data.get("preview") else None
        self.shown_items = self.val_items if shown is None else shown
        clip_norm = self.trainer["clip_norm"]
        clip_norm = None if clip_norm is None else float(clip_norm)
        self.stepper = Stepper(fabric, module, _optimizer(module), clip_norm)
        self.ema = EMA(module.averaged(), module.ema_decay) if module.ema_decay is not None else None
        first = fabric.global_rank == 0
        strategy = self.trainer["strategy"]
        if fabric.world_size > 1 and module.has_idle_parameters and strategy != "ddp_find_unused":
            raise BadConfig(
                f"trainer.strategy={strategy}: on several devices this model needs trainer.strategy=ddp_find_unused, "
                "since some of its steps leave parameters without a gradient"
            )
        self.bar = Bar(config["name"], self.trainer["max_steps"], quiet=not first)
        self.keeper = Keeper(
            config,
            module,
            self.stepper.optimizer,
            self.ema,
            self.bar.say,
            world_size=fabric.world_size,
            writes=first,
            cpu_began_s=cpu_began_s,
        )
        self.at = self.keeper.resume()
        self.logs = self._open_logs() if first else None

    def run(self) -> float:
        """Trains to the last step, or to the time limit; returns the metric."""
        try:
            with self.bar:
                self.bar.begin(self.at.step)
                if self.shown_items is None and self.trainer["preview_every"]:
                    self.bar.say("no validation pictures: neither data.val nor data.preview names any")
                if not self.at.finished:
                    self._finish_step()
                while self.at.step < self.trainer["max_steps"] and not self._out_of_time():
                    self._train_until_done_or_back()
            if self.fabric.global_rank == 0:
                self.keeper.export(self.at.step)
            self.fabric.barrier()
            return self.at.metric if self.at.metric is not None else math.nan
        finally:
            if self.logs is not None:
                self.logs.close()

    def _train_until_done_or_back(self) -> None:
        """Steps on; returns at the last step, at the time limit, or after going back to a checkpoint."""
        seed = self.at.seed(self.config["seed"])
        loader = self._loader(seed)
        for batches, broken in self._reading(loader):
            outcome = self._learn(seed, batches, broken)
            if not outcome.finite and self.at.bad_in_row > self.trainer["max_bad_steps"]:
                return self._go_back()
            _, signum, out_of_time = outcome.flags
            if signum:
                self._stop_for(signum)
            self._finish_step()
            if self.fabric.world_size == 1 and self.stop.signum:  # it came during the validation
                self._stop_for(self.stop.signum)
            last = bool(out_of_time) or self.at.step == self.trainer["max_steps"]
            if last or self.at.step % self.trainer["save_every"] == 0:
                self._save(must=last)
            if last:
                return None
        return None

    def _learn(self, seed: int, batches: Sequence[Mapping[str, Any]], broken: list[Broken]) -> Outcome:
        """Takes one step and counts what happened in it."""
        if not batches:
            raise BadData(f"{len(broken)} training samples are broken, the last: {broken[-1][1]}; check data.train")
        flags = (len(broken), self.stop.signum, int(self._out_of_time()))
        self._tell_position()
        outcome = self.stepper.take(self.at.step, seed, batches, flags)
        self.at.step += 1
        self.at.finished = False
        if outcome.flags[0]:
            self._count_broken(broken)
        if outcome.finite:
            if self.ema is not None:
                self.ema.update()
            self.at.bad_in_row = 0
            self.at.clipped += outcome.clipped
            for name, value in {**outcome.values, "grad_norm": outcome.grad_norm}.items():
                total, count = self.at.window.get(name, (0.0, 0.0))
                self.at.window[name] = [total + value, count + 1.0]
        else:
            self._count_bad(outcome)
        self.bar.advance(self.at.step, outcome.values["loss"])
        return outcome

    def _tell_position(self) -> None:
        self.module.step, self.module.progress = self.at.step, self.at.step / self.trainer["max_steps"]

    def _finish_step(self) -> None:
        """Logs, validates and shows what is due; all of it can be done again from the step's checkpoint."""
        step, last = self.at.step, self.at.step == self.trainer["max_steps"]
        row: dict[str, float] = {}
        if step % self.trainer["log_every"] == 0 or last:
            row = {name: total / count for name, (total, count) in self.at.window.items()}
            self.at.metric = row.get("loss", self.at.metric) if self.val_items is None else self.at.metric
            self.at.window = {}
            row |= {"lr": self.stepper.optimizer.param_groups[0]["lr"], "epoch": self._epoch()}
            row |= {"skipped_steps": self.at.skipped, "clipped_steps": self.at.clipped}
        if self.val_items is not None and (_due(step, self.trainer["val_every"]) or last):
            row |= self._validate()
        if row and self.logs is not None:
            self.logs.scalars(step, row, {"steps_per_s": self.bar.speed})
        if self.shown_items is not None and self.logs is not None and _due(step, self.trainer["preview_every"]):
            self._preview()
        self.at.finished = True

    def _validate(self) -> dict[str, float]:
        assert self.val_items is not None
        self._tell_position()
        with evaluating(self.module, self.ema, self.config["seed"], self.fabric):
            most = self.trainer["val_batches"]
            row = validate(self.module, self.val_items, self.data["batch_size"], most, self.fabric)
        self.at.metric = row["val/loss"]
        return row

    def _preview(self) -> None:
        assert self.shown_items is not None
        self._tell_position()
        with evaluating(self.module, self.ema, self.config["seed"], self.fabric):
            picture = preview(self.module, self.shown_items, self.trainer["preview_items"], self.fabric)
        if picture is not None and self.logs is not None:
            self.logs.picture(self.at.step, picture)

    def _save(self, must: bool) -> None:
        self.keeper.save(self.at, self.logs.flush if self.logs is not None else lambda: None, must)
        if must:
            self.fabric.barrier()  # no process may end while rank 0 is writing

    def _stop_for(self, signum: int) -> None:
        self.bar.say(f"signal {signum}: saving at step {self.at.step}")
        self._save(must=True)
        self.stop.hand_over(signum)

    def _go_back(self) -> None:
        """Returns to the last good checkpoint, once; the second time stops, with a dump of the state."""
        self.fabric.barrier()
        failed = self.at
        back = self.keeper.roll_back(failed.rollbacks + 1) if failed.rollbacks == 0 else None
        if back is None:
            where = self.keeper.dump(failed)
            raise BadRequest(
                f"loss or gradients were not finite in {failed.bad_in_row} steps in a row before step {failed.step}; "
                f"state dumped to {str(where)!r}; lower optimizer.lr, set trainer.clip_norm, or check the data"
            )
        self.at = back
        self.bar.say(f"{failed.bad_in_row} bad steps in a row: back to step {back.step}, with other draws from there")
        if self.logs is not None:
            self.logs.metrics.forget_after(back.step)

    def _count_bad(self, outcome: Outcome) -> None:
        self.at.bad_in_row += 1
        self.at.skipped += 1
        if self.logs is not None:
            record = {"step": self.at.step, "in_row": self.at.bad_in_row, "grad_norm": outcome.grad_norm}
            self.logs.record("bad_steps.jsonl", [record | outcome.values])
            self.bar.say(f"step {self.at.step} skipped: loss {outcome.values['loss']}, gradient {outcome.grad_norm}")

    def _count_broken(self, broken: list[Broken]) -> None:
        """Makes the ranks' broken samples known to all, and stops when they are too many."""
        if self.fabric.world_size > 1:
            parts: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(parts, broken)
            broken = [fault for part in parts for fault in part]
        new = {str(index): cause for index, cause in broken if str(index) not in self.at.broken}
        self.at.broken |= new
        if self.logs is not None and new:
            self.logs.record("bad_samples.jsonl", [{"item": int(index), "cause": new[index]} for index in new])
            for index, cause in new.items():
                self.bar.say(f"training sample {index} is broken, another one is used: {cause}")
        most = self.data["max_bad_fraction"] * len(self.train_items)
        if len(self.at.broken) > most:
            raise BadData(
                f"{len(self.at.broken)} of {len(self.train_items)} training samples are broken, and "
                f"data.max_bad_fraction={self.data['max_bad_fraction']}; see {str(self.out / 'bad_samples.jsonl')!r}"
            )

    def _loader(self, seed: int) -> DataLoader:
        plan = Plan(
            seed, self.fabric.global_rank, self.fabric.world_size, self.data["batch_size"], self.trainer["accumulate"]
        )
        stop, workers = self.trainer["max_steps"], self.data["workers"]
        return train_loader(self.train_items, plan, self.at.step, stop, workers, float(self.data["timeout_s"]))

    def _reading(self, loader: DataLoader) -> Iterator[Step]:
        """The loader's steps; a worker that dies or hangs is reported with the samples that it was reading."""
        try:
            yield from loader
        except (RuntimeError, EOFError, ConnectionError) as error:
            died = error if isinstance(error, RuntimeError) else _end_of_a_worker(error)
            if "DataLoader" not in str(died):
                raise
            sampler = loader.batch_sampler
            items = sampler.plan.indices(self.at.step, len(self.train_items))  # type: ignore[union-attr]
            raise BadData(
                f"{str(died).splitlines()[0]} It was reading for step {self.at.step} (items {items[:8]} ...); "
                "check those, or set data.workers lower (memory) or data.timeout_s higher"
            ) from error

    def _open_logs(self) -> Logs:
        last = self.at.step if self.at.finished else self.at.step - 1
        if not self.at.step and (self.out / "metrics.csv").is_file():
            self.bar.say("an earlier run in this folder left no checkpoint: starting from step 0")
        return Logs(self.out, last, self.bar.say, config=self.config, name=self.config["name"], **self.config["logger"])

    def _epoch(self) -> int:
        per_step = self.data["batch_size"] * self.trainer["accumulate"] * self.fabric.world_size
        return self.at.step * per_step // len(self.train_items)

    def _out_of_time(self) -> bool:
        """Whether a save must start now to be done, twice over, within the time limit."""
        limit = self.trainer["time_limit_min"]
        return limit is not None and time.monotonic() - self.started + 2 * self.keeper.slowest_s > 60 * limit


def _optimizer(module: TrainingModule) -> torch.optim.Optimizer:
    """The module's optimiser; what torch refuses of its settings is the user's fault."""
    try:
        return module.configure_optimizers()
    except ValueError as error:
        raise BadConfig(f"optimizer: {error}") from error


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _end_of_a_worker(error: Exception) -> Exception:
    """What torch says of a worker that died while its tensors were fetched, once the signal of its end has come."""
    try:
        time.sleep(SIGNAL_SECONDS)
    except RuntimeError as said:
        return said
    return error
