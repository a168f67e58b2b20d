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
from core.cpu import cpu_seconds
from core.errors import BadConfig
from core.memory import out_of_memory_as_request
from core.provenance import keep_earlier_record
from core.training.launching import launch, make_fabric, rank_of
from core.training.lock import run_lock
from core.training.loop import Loop
from core.training.module import TrainingModule
from core.training.randomness import derive
from core.training.settings import check_settings
from core.training.signals import catching_signals


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
    began = cpu_seconds()  # a batch or a sweep has several runs in one process
    with catching_signals() as stop, _deterministic(bool(config["trainer"]["deterministic"])):
        with out_of_memory_as_request(TrainingModule.memory_hint):
            module = build(config)
        with out_of_memory_as_request(module.memory_hint):
            loop = Loop(fabric, config, module, stop, cpu_began_s=began)
            return loop.run(), loop.keeper.made_here(loop.at.step)


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
