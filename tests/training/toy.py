"""A real training module at toy size: a small convolutional denoiser on seeded pictures."""

import os
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from core.errors import BadImage
from core.training.module import TrainingModule

CONF = Path(__file__).parents[2] / "conf"


class Pictures:
    """Seeded pictures [3, 8, 8], shifted by a draw; `broken` items cannot be read, `deadly` ones kill their reader."""

    def __init__(
        self,
        num_items: int = 12,
        shift: float = 0.1,
        broken: list[int] | None = None,
        deadly: list[int] | None = None,
    ) -> None:
        self.pictures = torch.randn(num_items, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.shift = shift
        self.broken = broken or []
        self.deadly = deadly or []

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        if index in self.broken:
            raise BadImage(f"picture {index} is broken")
        if index in self.deadly:
            os._exit(7)
        shift = self.shift * torch.randn((), generator=generator)
        return {"picture": self.pictures[index] + shift, "index": torch.tensor(index)}


class ToyDenoiser(TrainingModule):
    """Predicts the noise added to a picture; the first layer is frozen, and there is dropout and a running mean."""

    def __init__(
        self, *, noise: float = 0.5, dropout: float = 0.1, journal: str | None = None, **training: Any
    ) -> None:
        super().__init__(**training)
        self.noise = noise
        self.frozen_layer = nn.Conv2d(3, 8, 3, padding=1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(8) if dropout else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(8, 3, 3, padding=1)
        self.journal = journal
        self.calls = 0

    def disturb(self) -> float:
        """What a test does to the loss of a training step: a hook to kill the run, or a factor that is not finite."""
        return 1.0

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        picture = batch["picture"]
        eps = self.noise * torch.randn(picture.shape, generator=generator, device=picture.device)
        hidden = self.dropout(self.norm(torch.relu(self.frozen_layer(picture + eps))))
        error = (self.last(hidden) - picture).square()
        if self.training:
            self.calls += 1
            error = error * self.disturb()
            if self.journal:
                rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else ""
                with Path(f"{self.journal}{rank}").open("a") as file:
                    print(batch["index"].tolist(), eps.double().sum().item(), error.mean().item(), file=file)
        return {"loss": error.mean(), "worst": error.amax()}

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        return batch["picture"][0].sigmoid()


def config(out: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a short run; `changes` are dotted keys with `__` for the dot."""
    groups = {"optimizer": "adamw", "schedule": "warmup", "logger": "default", "trainer": "default"}
    settings: dict[str, Any] = {
        group: yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) for group, option in groups.items()
    }
    pictures = "tests.training.toy.Pictures"
    data = {"train": {"_target_": pictures}, "val": {"_target_": pictures, "num_items": 4}, "batch_size": 4}
    settings |= {"name": "toy", "seed": 3, "out": str(out), "resume": "auto", "force_resume": False}
    settings |= {"model": {"_target_": "tests.training.toy.ToyDenoiser"}}
    settings["data"] = data | {"workers": 0, "timeout_s": 60, "max_bad_fraction": 0.01}
    settings["optimizer"] |= {"lr": 0.01, "eps": 1e-8}
    settings["logger"]["tensorboard"] = False
    settings["trainer"] |= {"accelerator": "cpu", "max_steps": 12, "ema_decay": 0.9, "log_every": 2, "val_every": 6}
    settings["trainer"] |= {"preview_every": 100, "save_every": 4, "keep_last": 2}
    for key, value in changes.items():
        *path, last = key.split("__")
        node = settings
        for part in path:
            node = node[part]
        node[last] = value
    return settings
