"""What a system hands to the trainer: a loss, groups of parameters and, if it likes, a picture to look at."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

Batch = Mapping[str, Any]


class TrainingModule(L.LightningModule):
    """Base of every trained system; a subclass passes its `**training` keywords on to this constructor.

    Args:
        optimizer: makes the optimiser from a list of parameter groups; None for a module that only generates.
        lr: base learning rate, handed to `parameter_groups`.
        schedule: factor of the learning rate at a step (0 is the first); None leaves it constant.
        ema_decay: of the running average of the parameters that `averaged` names, in (0, 1]; None for no average.
        seed: of everything the training draws.

    Attributes:
        progress: fraction of the run's steps taken, for a loss that changes on the way; the loop sets it.
        step: steps taken, for a loss whose schedule does not stretch with the run; the loop sets it.
        memory_hint: what to do where memory runs out; it ends the message.
        has_idle_parameters: whether some steps leave trained parameters without a gradient.
        data_settings: settings, and groups of them, that decide what a step reads or draws, beside those of any run
            (`core.training.resume`); a run does not go on with others unless it is forced to.
        harmless_settings: what decides nothing about the weights but to rounding, among those or beside them.
    """

    has_idle_parameters = False
    data_settings: tuple[str, ...] = ()
    harmless_settings: tuple[str, ...] = ()
    memory_hint = "set data.batch_size lower (and trainer.accumulate higher), or trainer.precision=bf16"

    def __init__(
        self,
        *,
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
        lr: float = 1e-4,
        schedule: Callable[[int], float] | None = None,
        ema_decay: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.make_optimizer = optimizer
        self.lr = lr
        self.schedule = schedule or (lambda step: 1.0)
        self.ema_decay = ema_decay
        self.seed = seed
        self.progress = 0.0
        self.step = 0

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars by name: "loss" is optimised, the rest is logged. All that is drawn comes from `generator`."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(batch, generator)")

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Optimiser groups, each with "params" and possibly its own "lr"; by default all that is trainable, at `lr`."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad], "lr": lr}]

    def setting_name(self, key: str) -> str:
        """What the program's user calls the setting `key` of the run; messages say this."""
        return key

    def preview(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "3 height width"] | None:
        """A picture in [0, 1] of what the model makes of some validation samples; None for nothing to show."""
        return None

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is kept of the finished weights (averaged, if there is an average); by default all of them."""
        return state

    def export_metadata(self) -> dict[str, str]:
        """What the finished weights' file says beside them: how they are to be read, where no tensor shows it."""
        return {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over `parameter_groups`; its rates are the base that `schedule` multiplies."""
        assert self.make_optimizer is not None, "this module was built without an optimizer"
        return self.make_optimizer(self.parameter_groups(self.lr))

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Parameters that the run changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def averaged(self) -> dict[str, torch.nn.Parameter]:
        """Parameters of which the run keeps a running average; by default all that it changes."""
        return self.trained()

    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        """Parameters that the run leaves alone, by name: a checkpoint holds only their fingerprint."""
        return ((name, parameter) for name, parameter in self.named_parameters() if not parameter.requires_grad)
