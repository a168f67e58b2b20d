"""How much memory `generate` will take, told before any weights are read."""

from collections.abc import Mapping
from typing import Any

import torch

from core.estimate import Estimate, estimate_model
from core.memory import peak_bytes
from core.models.latents import Latents
from projects.syncdreamer.model import Condition, SyncDreamer
from projects.syncdreamer.settings import Settings


def estimate_memory(model: Mapping[str, Any], settings: Settings, device: torch.device) -> Estimate:
    """Builds and runs the model without data: encoding, one denoising step and decoding, one batch of views each."""
    return estimate_model(
        model,
        lambda denoiser, latents, _: [_denoising(denoiser, settings), _decoding(denoiser, latents, settings)],
        batch_view_num=settings.batch_view_num,
        precision=settings.precision,
        device=device,
    )


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
