"""How much memory `generate` will take, told before any weights are read."""

from collections.abc import Mapping
from typing import Any

import torch

from core.estimate import Estimate, estimate_model
from core.memory import peak_bytes
from core.models.latents import Latents
from projects.viewfusion.model import Zero123
from projects.viewfusion.settings import Settings


def estimate_memory(model: Mapping[str, Any], settings: Settings, device: torch.device) -> Estimate:
    """Builds and runs the model without data: encoding, one batch of conditions, and decoding one view."""
    return estimate_model(
        model,
        lambda denoiser, latents, _: [_denoising(denoiser, settings), _decoding(denoiser, latents)],
        batch_view_num=settings.batch_view_num,
        precision=settings.precision,
        device=device,
    )


def _denoising(denoiser: Zero123, settings: Settings) -> int:
    config, rows = denoiser.unet.config, settings.batch_view_num
    x = torch.empty(rows, config.out_channels, config.sample_size, config.sample_size)
    context = torch.empty(rows, 1, config.cross_attention_dim)
    return peak_bytes(lambda: denoiser.predict(x, torch.zeros(rows, dtype=torch.long), context, x))


def _decoding(denoiser: Zero123, latents: Latents) -> int:
    config = denoiser.unet.config
    one = torch.empty(1, config.out_channels, config.sample_size, config.sample_size)
    return peak_bytes(lambda: latents.decode(one))
