"""The one `run(cfg)`: build, resume, fit, export, and return what a sweep optimises.

A run folder holds config.yaml, metrics.csv, tensorboard/, samples/, checkpoints/ and at the end weights/. A run started
again in its folder continues from its newest valid checkpoint, bit for bit (on the CPU, with as many threads). Fabric
(of Lightning) brings devices, precision and processes; the loop is ours, because exactness is decided there.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from core.config import instantiate, plain
from core.errors import BadConfig, BadRequest
from core.provenance import keep_earlier_record
from core.training.launching import launch, make_fabric, rank_of
from core.training.lock import run_lock
from core.training.loop import Loop
from core.training.module import TrainingModule
from core.training.randomness import derive
from core.training.settings import check_settings
from core.training.signals import catching_signals

MEMORY_HINT = "set data.batch_size lower (and trainer.accumulate higher), or trainer.precision=bf16"


def run(cfg: Mapping[str, Any]) -> float:
    """Trains what `cfg` describes, or goes on with it; returns the last validation loss (training loss without val).

    A finished run takes no step: what it made and the record of it stay, and BadConfig refuses settings that would have
    made other weights.

    Reads `name`, `seed`, `out`, `resume`, `force_resume` and the groups `model` (a TrainingModule), `data`,
    `optimizer`, `schedule`, `trainer`, `logger`.
    """
    config = plain(cfg)
    check_settings(config)
    fabric = make_fabric(config["trainer"])
    first: AbstractContextManager = run_lock(Path(config["out"])) if rank_of(fabric) == 0 else nullcontext()
    with first:
        metric, made_here = launch(fabric, train, config)
    if not made_here:
        keep_earlier_record()
    return metric


def train(fabric: Fabric, config: Mapping[str, Any]) -> tuple[float, bool]:
    """What each process does; the metric, and whether the weights are of this run rather than of one before it."""
    try:
        with catching_signals() as stop, _deterministic(bool(config["trainer"]["deterministic"])):
            loop = Loop(fabric, config, build(config), stop)
            return loop.run(), loop.keeper.made_here(loop.at.step)
    except torch.OutOfMemoryError as error:
        raise BadRequest(f"out of memory on {fabric.device}: {str(error).splitlines()[0]}; {MEMORY_HINT}") from error
    except MemoryError as error:
        raise BadRequest(f"out of memory; {MEMORY_HINT}") from error


def build(config: Mapping[str, Any]) -> TrainingModule:
    """The model with its optimiser and schedule; its initial weights are a function of the seed."""
    torch.manual_seed(derive(config["seed"], "init"))
    module = instantiate(
        config["model"],
        optimizer=instantiate(config["optimizer"]),
        schedule=instantiate(config["schedule"]),
        lr=config["optimizer"]["lr"],
        ema_decay=config["trainer"]["ema_decay"],
        seed=config["seed"],
    )
    if not isinstance(module, TrainingModule):
        raise BadConfig(f"model._target_={config['model']['_target_']}: expected a TrainingModule")
    return module


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    """Within it torch refuses, or does not refuse, operations whose result varies; afterwards it is as before."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
