"""Devices and processes.

Several processes on one machine are spawned with the settings as their argument, so that it makes no difference who
started the program (a shell, a sweep, a test). Under SLURM they are there already.
"""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.fabric.strategies import DDPStrategy
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from core import errors
from core.errors import BadConfig, UserError
from core.training.settings import PRECISIONS
from core.training.signals import STOPPING, catching_signals, relay_to

Result = TypeVar("Result")


def make_fabric(trainer: Mapping[str, Any]) -> Fabric:
    """Lightning's devices, precision and strategy as `trainer` says, after `check_settings`."""
    accelerator, strategy = trainer["accelerator"], trainer["strategy"]
    cuda = torch.cuda.is_available()
    if accelerator == "cuda" and not cuda:
        raise BadConfig("trainer.accelerator=cuda: no usable CUDA device here; choose cpu or auto")
    on_cpu = accelerator == "cpu" or not cuda
    if not on_cpu and trainer["devices"] > torch.cuda.device_count():
        raise BadConfig(f"trainer.devices={trainer['devices']}: {torch.cuda.device_count()} CUDA devices are here")
    # A scheduler requeues through its launcher, so Lightning must not do it a second time.
    slurm = SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else None
    if trainer["devices"] > 1 or strategy != "auto":
        strategy = DDPStrategy(
            process_group_backend="gloo" if on_cpu else "nccl",
            start_method="popen" if slurm else "spawn",
            find_unused_parameters=strategy == "ddp_find_unused",
        )
    return Fabric(
        accelerator="cpu" if on_cpu else "cuda",
        devices=trainer["devices"],
        strategy=strategy,
        precision=PRECISIONS[str(trainer["precision"])],  # type: ignore[arg-type]
        plugins=[slurm] if slurm else None,
    )


def rank_of(fabric: Fabric) -> int:
    """This process's rank, before the processes know each other; 0 for the one that will spawn the others."""
    return int(os.environ["SLURM_PROCID"]) if SLURMEnvironment.detect() else fabric.global_rank


def launch(fabric: Fabric, work: Callable[[Fabric, Any], Result], config: Mapping[str, Any]) -> Result:
    """Runs `work` in every process; returns rank 0's result and raises what the first failing process raised."""
    launcher = fabric.strategy.launcher
    if launcher is None or not hasattr(launcher, "_start_method"):
        fabric.launch()
        return _alone(work(fabric, config))
    with catching_signals() as stop:
        # A child leads a session of its own: a terminal's Ctrl-C reaches it once, through here.
        stop.relay = relay_to(lambda: [child.pid for child in multiprocessing.active_children() if child.pid])
        try:
            return fabric.launch(_child, work, config)  # type: ignore[arg-type]
        except ProcessRaisedException as error:
            raise _fault(str(error)) or error from None
        except ProcessExitedException as error:
            if stop.signum or (error.exit_code or 0) > 128:
                stop.hand_over(stop.signum or error.exit_code - 128)
            raise SystemExit(error.exit_code or 1) from error


def _child(fabric: Fabric, work: Callable[[Fabric, Any], Result], config: Mapping[str, Any]) -> Result:
    os.setsid()
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)  # the parent's handlers are not this process's
    try:
        return _alone(work(fabric, config))
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # torch takes an interrupted child for a finished one


def _alone(result: Result) -> Result:
    """`result`, after the processes have parted: gloo's threads, left running, can abort a process as it exits.

    Only where the work succeeded: after a fault the others may still wait for this process in a collective call.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return result


def _fault(report: str) -> UserError | None:
    """The user's fault at the end of a child's traceback, if it is one."""
    match = re.match(r"core\.errors\.(\w+): (.*)", report.strip().splitlines()[-1])
    return getattr(errors, match[1])(match[2]) if match else None
