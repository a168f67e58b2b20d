"""A system whose trained part is one denoiser, with frozen networks around it."""

from typing import Any

from torch import Tensor, nn

from core.config import number
from core.errors import BadConfig
from core.models.bundled import is_from_folder
from core.training.module import TrainingModule

DENOISER = "denoiser"  # its name in every system
# Names in a file's metadata: what the network was trained to predict, and whether its views saw each other.
PREDICTION, JOINT = "prediction", "joint"


def facts(prediction: str, joint: bool | None = None) -> dict[str, str]:
    """What a weights file says of its denoiser, where no tensor shows it.

    Args:
        joint: None for a denoiser that knows no such choice.
    """
    return {PREDICTION: prediction} | ({} if joint is None else {JOINT: str(joint).lower()})


def without_folder(system: nn.Module) -> set[str]:
    """Names of the networks around a system's denoiser that are in no folder of their own."""
    return {name for name, part in system.named_children() if name != DENOISER and not is_from_folder(part)}


class DenoiserModule(TrainingModule):
    """Publishes its `denoiser`, and what that predicts; of the frozen networks those that have no folder of their own.

    A published checkpoint that a training started from brings its autoencoder and encoder: they are in no folder, and
    without them nothing can be made with the result.
    """

    denoiser: Any

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = tuple(f"{name}." for name in (DENOISER, *without_folder(self)))
        return {key: value for key, value in state.items() if key.startswith(parts)}

    def export_metadata(self) -> dict[str, str]:
        return facts(self.denoiser.prediction, getattr(self.denoiser, "joint", None))


class NoisyFirstModule(DenoiserModule):
    """Draws other timesteps in the beginning of a run.

    From scratch, what the condition says is learnt first where there is nothing else to go by: in much noise.

    Args:
        timestep_power: draws t as T u^(1 / power), u uniform in [0, 1): more than 1 draws more of much noise.
        early_timestep_power: the same in the beginning of the run; None: as ever.
        early_until: fraction of the run that is its beginning.
    """

    def __init__(
        self,
        *,
        timestep_power: float = 1.0,
        early_timestep_power: float | None = None,
        early_until: float = 0.0,
        **training,
    ) -> None:
        super().__init__(**training)
        number("timestep_power", timestep_power, 0.1, 100)
        number("early_until", early_until, 0, 1)
        if early_timestep_power is not None:
            number("early_timestep_power", early_timestep_power, 0.1, 100)
        if (early_timestep_power is None) != (early_until == 0):
            raise BadConfig(
                f"early_timestep_power={early_timestep_power}, early_until={early_until}: give both, or neither "
                "(null and 0)"
            )
        self.timestep_power = timestep_power
        self.early_timestep_power, self.early_until = early_timestep_power, early_until

    @property
    def power_now(self) -> float:
        """How timesteps are drawn at this point of the run."""
        if self.early_timestep_power is not None and self.progress < self.early_until:
            return self.early_timestep_power
        return self.timestep_power
