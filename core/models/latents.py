"""Images <-> latents through an autoencoder (Rombach et al. 2022).

The encoder gives a diagonal Gaussian per position, as `moments`: mean and log-variance, stacked on channels. Diffusion
works on latents times `scaling_factor`, which brings them to unit variance (0.18215 for Stable Diffusion's VAE).
"""

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class Latents(nn.Module):
    """An autoencoder with its scale. Images go through it in chunks, in any number.

    Args:
        scaling_factor: of latents; None takes the one in the autoencoder's config.
        max_batch: images that pass through the autoencoder at once; a bound on memory without effect on the result.
    """

    def __init__(self, vae: AutoencoderKL, *, scaling_factor: float | None = None, max_batch: int = 16) -> None:
        super().__init__()
        if max_batch < 1:
            raise ValueError(f"expected max_batch of at least 1, got {max_batch}")
        self.vae = vae
        self.scaling_factor = vae.config.scaling_factor if scaling_factor is None else scaling_factor
        self.max_batch = max_batch

    @property
    def reduction(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def moments(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n c2 h w"]:
        """Mean and log-variance of each image's unscaled latents; pixels lie in [-1, 1]."""
        return torch.cat([self.vae.encode(chunk).latent_dist.parameters for chunk in pixels.split(self.max_batch)])

    def sample(
        self, moments: Float[Tensor, "n c2 h w"], noise: Float[Tensor, "n c h w"] | torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Scaled latents mean + std * noise, with the given noise or drawn from the given generator."""
        mean, log_variance = moments.chunk(2, dim=1)
        if isinstance(noise, torch.Generator):  # it may live on the CPU while the latents do not
            noise = torch.randn(mean.shape, generator=noise, device=noise.device, dtype=torch.float32).to(mean)
        std = (0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)).exp()
        return (mean + std * noise) * self.scaling_factor

    def mode(self, moments: Float[Tensor, "n c2 h w"]) -> Float[Tensor, "n c h w"]:
        """Scaled latents without noise: the mean."""
        return moments.chunk(2, dim=1)[0] * self.scaling_factor

    def encode(
        self, pixels: Float[Tensor, "n 3 height width"], noise: Float[Tensor, "n c h w"] | torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Scaled latents of images in [-1, 1], sampled as in `sample`."""
        return self.sample(self.moments(pixels), noise)

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 height width"]:
        """Images of scaled latents, about in [-1, 1] (not clamped)."""
        chunks = (latents / self.scaling_factor).split(self.max_batch)
        return torch.cat([self.vae.decode(chunk).sample for chunk in chunks])
