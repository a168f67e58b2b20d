"""How much memory `generate` will take, told before any weights are read."""

from collections.abc import Mapping
from typing import Any

import torch

from core.estimate import Estimate, estimate_model
from core.memory import peak_bytes
from core.models.latents import Latents
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.settings import Settings


def estimate_memory(model: Mapping[str, Any], settings: Settings, device: torch.device) -> Estimate:
    """Builds and runs the model without data: reading two texts, one batch of the UNet, and decoding one of views."""
    return estimate_model(
        model,
        lambda denoiser, latents, text_encoder: [
            _denoising(denoiser, latents, settings, text_encoder.length),
            _decoding(denoiser, latents, settings),
        ],
        batch_view_num=settings.batch_view_num,
        precision=settings.precision,
        device=device,
    )


def _denoising(denoiser: MultiViewDenoiser, latents: Latents, settings: Settings, num_tokens: int) -> int:
    config = denoiser.unet.config
    num_views = settings.num_views if settings.use_camera else 1
    objects = min(settings.max_objects, 2 * settings.samples * (settings.num_views // num_views))
    side = settings.size // latents.reduction
    x = torch.empty(objects, num_views, config.in_channels, side, side)
    context = torch.empty(objects, 1, num_tokens, config.cross_attention_dim)
    camera = torch.empty(objects, num_views, denoiser.camera_embed.linear_1.in_features)
    t = torch.zeros(objects, dtype=torch.long)
    return peak_bytes(lambda: denoiser.predict(x, t, context, camera if settings.use_camera else None))


def _decoding(denoiser: MultiViewDenoiser, latents: Latents, settings: Settings) -> int:
    """Of one batch, and the images of all."""
    side, number = settings.size // latents.reduction, settings.samples * settings.num_views
    batch = torch.empty(min(settings.batch_view_num, number), denoiser.unet.config.in_channels, side, side)
    return peak_bytes(lambda: latents.decode(batch)) + number * 3 * settings.size**2 * 4
