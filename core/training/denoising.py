"""A system whose trained part is one denoiser, with frozen networks around it."""

from typing import Any

from torch import Tensor

from core.training.module import TrainingModule

PREDICTION = "prediction"  # names, in a file's metadata, what the network was trained to predict


class DenoiserModule(TrainingModule):
    """Publishes its `denoiser` alone, and what that predicts: the frozen networks have files of their own."""

    denoiser: Any

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key.startswith("denoiser.")}

    def export_metadata(self) -> dict[str, str]:
        return {PREDICTION: self.denoiser.prediction}
