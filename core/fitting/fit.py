"""Fit a field to the pixels of one view set.

Whatever step s draws is a function of (seed, s): a fit that was killed continues from its last checkpoint bit for bit.
"""

import math
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.config import number, whole
from core.errors import BadConfig, UserError
from core.fitting.pixels import Pixels
from core.training import checkpoints
from core.training.loggers import MetricsFile
from core.training.progress import Bar
from core.training.randomness import generator
from core.training.signals import catching_signals
from core.types import Rays


@runtime_checkable
class Field(Protocol):
    """What can be fitted: a module with losses."""

    def before_step(self, step: int, generator: torch.Generator) -> None:
        """Housekeeping that is not an optimisation step."""

    def losses(
        self,
        rays: Rays,
        rgb: Float[Tensor, "rays 3"],
        mask: Float[Tensor, "rays 1"],
        *,
        step: int,
        jitter: Float[Tensor, "rays 1"],
    ) -> dict[str, Float[Tensor, ""]]:
        """Terms to log; "loss" is minimised."""
        ...


class FitDiverged(UserError):
    """The loss is no longer finite."""


def learning_rate(
    step: int, *, steps: int, warmup: int = 100, start: float = 0.02, final: float = 0.02, every: int = 1000
) -> float:
    """SyncDreamer's factor: linear from `start` to 1 over `warmup` steps, then equal ratios down every `every` steps.

    Args:
        final: the factor that the last ratio would reach at the end.
    """
    if step < warmup:
        return start + (1 - start) * step / warmup
    return final ** ((step // every) / max(1, steps // every))


class Fit:
    """The settings of a fit; call it with a field and pixels. Defaults are SyncDreamer's for NeuS."""

    def __init__(
        self,
        *,
        steps: int = 2000,
        lr: float = 5e-4,
        warmup: int = 100,
        decay: float = 0.02,
        decay_every: int = 1000,
        num_random: int = 3584,
        num_foreground: int = 512,
        log_every: int = 10,
        checkpoint_every: int = 500,
    ) -> None:
        """
        Args:
            decay, decay_every: the rate ends near `decay` times `lr` and changes every `decay_every` steps.
            num_random, num_foreground: rays per step from anywhere, and from pixels that are not white.
        """
        for key, count in {"steps": steps, "decay_every": decay_every, "log_every": log_every}.items():
            whole(key, count)
        whole("checkpoint_every", checkpoint_every)
        for key, count in {"warmup": warmup, "num_random": num_random, "num_foreground": num_foreground}.items():
            whole(key, count, least=0)
        if num_random + num_foreground == 0:
            raise BadConfig("num_random=0 and num_foreground=0: a step without rays learns nothing; raise one of them")
        number("lr", lr, 0, above=True)
        number("decay", decay, 0, above=True)
        self.steps, self.lr, self.warmup, self.decay, self.decay_every = steps, lr, warmup, decay, decay_every
        self.num_random, self.num_foreground = num_random, num_foreground
        self.log_every, self.checkpoint_every = log_every, checkpoint_every

    def __call__(self, field: Field, pixels: Pixels, *, seed: int, folder: Path, name: str = "fit") -> dict[str, float]:
        """Fit in place and return the last losses; `folder` receives metrics.csv and, while it runs, checkpoints."""
        assert isinstance(field, nn.Module)
        optimizer = torch.optim.AdamW(field.parameters(), lr=self.lr)
        start = _resume(field, optimizer, folder / "checkpoints")
        metrics = MetricsFile(folder / "metrics.csv", start - 1)
        logged: dict[str, float] = {}
        with catching_signals() as stop, Bar(name, self.steps) as bar:
            bar.begin(start)
            for step in range(start, self.steps):
                losses = self._step(field, pixels, optimizer, seed, step)
                last = step + 1 == self.steps
                if last or step % self.log_every == 0:
                    logged = {key: value.item() for key, value in losses.items()}
                    if not math.isfinite(logged["loss"]):
                        raise FitDiverged(f"the loss is {logged['loss']} at step {step}; lower fit.lr or change seed")
                    metrics.add(step, logged)
                    bar.advance(step + 1, logged["loss"])
                if not last and (stop.signum or (step + 1) % self.checkpoint_every == 0):
                    metrics.flush()
                    _save(field, optimizer, folder / "checkpoints", step + 1)
                if stop.signum:
                    stop.hand_over(stop.signum)
        return logged

    def _step(
        self, field: Field, pixels: Pixels, optimizer: torch.optim.Optimizer, seed: int, step: int
    ) -> dict[str, Tensor]:
        for group in optimizer.param_groups:
            group["lr"] = self.lr * learning_rate(
                step, steps=self.steps, warmup=self.warmup, final=self.decay, every=self.decay_every
            )
        field.before_step(step, generator(seed, step, stream="housekeeping"))
        index = pixels.batch(seed, step, num_random=self.num_random, num_foreground=self.num_foreground)
        jitter = torch.rand(len(index), 1, generator=generator(seed, step, stream="jitter"))
        rays, rgb, mask = pixels[index.to(pixels.rgb.device)]
        losses = field.losses(rays, rgb, mask, step=step, jitter=jitter.to(rgb))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimizer.step()
        return losses


def _save(field: nn.Module, optimizer: torch.optim.Optimizer, root: Path, step: int) -> None:
    moments = {
        f"{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    tensors = {"model": dict(field.state_dict()), "optimizer": moments}
    checkpoints.save(root, checkpoints.Snapshot(step, tensors, {"step": step}))
    checkpoints.retire(root, keep_last=1, keep_every=None, spare=set())


def _resume(field: nn.Module, optimizer: torch.optim.Optimizer, root: Path) -> int:
    """The step to continue with; loads the newest checkpoint that verifies."""
    folder, _ = checkpoints.newest_valid(root)
    if folder is None:
        return 0
    snapshot = checkpoints.load(folder)
    field.load_state_dict(snapshot.tensors["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in snapshot.tensors["optimizer"].items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return snapshot.step
