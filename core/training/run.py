"""The one `run(cfg)`: build, resume, fit, export, and return what a sweep optimises.

A run folder holds config.yaml, metrics.csv, tensorboard/, samples/, checkpoints/ and at the end weights/. A run started
again in its folder continues from its newest valid checkpoint, bit for bit (on the CPU, with as many threads). Fabric
(of Lightning) brings devices, precision and processes; the loop is ours, because exactness is decided there.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from core.config import instantiate, number, one_of, plain, whole
from core.errors import BadConfig, BadRequest
from core.training.launching import PRECISIONS, launch, make_fabric, rank_of
from core.training.lock import run_lock
from core.training.loop import Loop
from core.training.module import TrainingModule
from core.training.randomness import derive
from core.training.signals import catching_signals

MEMORY_HINT = "set data.batch_size lower (and trainer.accumulate higher), or trainer.precision=bf16"


def run(cfg: Mapping[str, Any]) -> float:
    """Trains what `cfg` describes, or goes on with it; returns the last validation loss (training loss without val).

    Reads `name`, `seed`, `out`, `resume`, `force_resume` and the groups `model` (a TrainingModule), `data`,
    `optimizer`, `schedule`, `trainer`, `logger`.
    """
    config = plain(cfg)
    check_settings(config)
    torch.use_deterministic_algorithms(bool(config["trainer"]["deterministic"]))
    fabric = make_fabric(config["trainer"])
    first: AbstractContextManager = run_lock(Path(config["out"])) if rank_of(fabric) == 0 else nullcontext()
    with first:
        return launch(fabric, train, config)


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuses numbers that no run can have."""
    trainer, data = config["trainer"], config["data"]
    for key in ("max_steps", "accumulate", "devices", "save_every", "log_every", "keep_last", "preview_items"):
        whole(f"trainer.{key}", trainer[key])
    for key in ("val_every", "val_batches", "preview_every", "keep_every"):
        if trainer[key] is not None:
            whole(f"trainer.{key}", trainer[key])
    whole("trainer.max_bad_steps", trainer["max_bad_steps"], least=0)
    for key, most in {"time_limit_min": math.inf, "clip_norm": math.inf, "ema_decay": 1.0}.items():
        if trainer[key] is not None:
            number(f"trainer.{key}", trainer[key], 0, most, above=True)
    one_of("trainer.precision", str(trainer["precision"]), list(PRECISIONS))
    number("optimizer.lr", config["optimizer"]["lr"], 0, above=True)
    whole("data.batch_size", data["batch_size"])
    whole("data.workers", data["workers"], least=0)
    number("data.timeout_s", data["timeout_s"], 0, above=True)
    number("data.max_bad_fraction", data["max_bad_fraction"], 0, 1)
    if not isinstance(config["resume"], str):
        raise BadConfig(f"resume={config['resume']}: expected auto, never or the path of a checkpoint")


def train(fabric: Fabric, config: Mapping[str, Any]) -> float:
    """What each process does."""
    try:
        with catching_signals() as stop:
            return Loop(fabric, config, build(config), stop).run()
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
