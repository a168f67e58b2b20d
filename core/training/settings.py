"""Settings that no training run can have. Loads no torch: a program refuses them before it does."""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from core.config import CONF, number, one_of, suggestion, whole
from core.errors import BadConfig
from core.training.schedules import check_schedule

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}  # Fabric's names
GROUPS = ("model", "data", "optimizer", "schedule", "trainer", "logger")


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuses what no run can have, wherever it runs; which devices are here is `make_fabric`'s question."""
    for group in GROUPS:
        if not config.get(group):
            raise BadConfig(f"{group}={config.get(group)}: training needs one")
    if not isinstance(config["resume"], str):
        raise BadConfig(f"resume={config['resume']}: expected auto, never or the path of a checkpoint")
    for group in ("trainer", "logger"):
        _check_known(group, config[group])
    _check_trainer(config["trainer"])
    _check_logger(config["logger"])
    check_schedule(config["schedule"])
    number("optimizer.lr", config["optimizer"]["lr"], 0, above=True)
    data = config["data"]
    whole("data.batch_size", data["batch_size"])
    whole("data.workers", data["workers"], least=0)
    number("data.timeout_s", data["timeout_s"], 0, above=True)
    number("data.max_bad_fraction", data["max_bad_fraction"], 0, 1)


def _check_known(group: str, section: Mapping[str, Any]) -> None:
    """A `+trainer.key=` that nothing reads is no setting. Other groups are arguments, which their classes check."""
    known = OmegaConf.load(CONF / group / "default.yaml")
    for key in section:
        if key not in known:
            raise BadConfig(f"unknown key {group}.{key}; {suggestion(str(key), map(str, known))}")


def _check_trainer(trainer: Mapping[str, Any]) -> None:
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
    one_of("trainer.accelerator", trainer["accelerator"], ["auto", "cpu", "cuda"])
    one_of("trainer.strategy", trainer["strategy"], ["auto", "ddp", "ddp_find_unused"])


def _check_logger(logger: Mapping[str, Any]) -> None:
    one_of("logger.tensorboard", logger["tensorboard"], [True, False])
    one_of("logger.wandb", logger["wandb"], ["disabled", "offline", "online"])
