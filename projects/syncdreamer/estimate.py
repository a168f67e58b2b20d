"""How much memory `generate` will take, told before any weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from core.config import instantiate
from core.device import PRECISIONS, autocast
from core.memory import module_bytes, peak_bytes, process_bytes, without_data
from core.models.latents import Latents
from projects.syncdreamer.model import Condition, SyncDreamer
from projects.syncdreamer.settings import Settings

GIB = 2**30
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Estimate:
    """Bytes of the process with its libraries, of the weights, and of the largest step's activations."""

    process: int
    weights: int
    activations: int
    settings: Settings
    device: torch.device

    @property
    def total(self) -> int:
        return self.weights + self.activations + (self.process if self.device.type == "cpu" else 0)

    def __str__(self) -> str:
        beside = f", {self.process / GIB:.2f} Python and its libraries"
        if self.device.type != "cpu":
            beside = ", beside the device's own share and what else runs there"
        return (
            f"about {self.total / GIB:.2f} GiB on {self.device} ({self.weights / GIB:.2f} weights in 32 bits, "
            f"{self.activations / GIB:.2f} activations in {PRECISIONS[self.settings.precision]}{beside})"
        )

    @property
    def hint(self) -> str:
        """What to do where that is too much."""
        step = f"batch_view_num={self.settings.batch_view_num}"
        less = f"set a smaller one than {step}" if self.settings.batch_view_num > 1 else f"{step} is the least"
        return f"this takes {self}; {less}, or compute on another device"


def estimate_memory(model: Mapping[str, Any], settings: Settings, device: torch.device) -> Estimate:
    """Builds and runs the model without data: encoding, one denoising step and decoding, one batch of views each."""
    process = process_bytes()
    # Kernels of other packages run on CUDA only, and take no more than torch's.
    denoiser = _part({**model["denoiser"], "attention": "torch"})
    latents, image_encoder = _part(model["latents"]), _part(model["image_encoder"])
    latents.max_batch = settings.batch_view_num
    with without_data(), autocast(CPU, settings.precision):
        side = denoiser.image_size
        steps = [
            peak_bytes(lambda: image_encoder(torch.empty(1, 3, side, side))),
            peak_bytes(lambda: latents.moments(torch.empty(1, 3, side, side))),
            _denoising(denoiser, settings),
            _decoding(denoiser, latents, settings),
        ]
    weights = sum(module_bytes(part) for part in (denoiser, latents, image_encoder))
    return Estimate(process, weights, max(steps), settings, device)


def _part(node: Mapping[str, Any]) -> Any:
    """A part of the model without data; the small ones that are bundled are read from their files after all."""
    if str(node["_target_"]).startswith("core.models.bundled."):
        return instantiate(node).eval().requires_grad_(False)
    with without_data():
        return instantiate(node).eval().requires_grad_(False)


def _denoising(denoiser: SyncDreamer, settings: Settings) -> int:
    """Of the volume and one batch of views; the other batches, and the unguided half, take no more."""
    config = denoiser.unet.config
    size, channels = config.sample_size, config.out_channels
    x, t = torch.empty(1, denoiser.num_views, channels, size, size), torch.zeros(1, dtype=torch.long)
    condition = Condition(torch.empty(1, 1, config.cross_attention_dim), x[:, 0], torch.empty(1))
    indices = torch.zeros(1, min(settings.batch_view_num, denoiser.num_views), dtype=torch.long)
    return peak_bytes(lambda: denoiser.predict_views(x, t, condition, indices))


def _decoding(denoiser: SyncDreamer, latents: Latents, settings: Settings) -> int:
    """Of one batch of views, and of the pictures of all."""
    config, side = denoiser.unet.config, denoiser.image_size
    num_views = min(settings.batch_view_num, denoiser.num_views)
    batch = torch.empty(num_views, config.out_channels, config.sample_size, config.sample_size)
    return peak_bytes(lambda: latents.decode(batch)) + denoiser.num_views * 3 * side * side * 4
