"""The toybox autoencoder: 64 x 64 images <-> 16 x 16 x 4 latents (Rombach et al. 2022, without a discriminator)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.data.toybox import open_pack
from core.metrics.images import decibels, psnr
from core.training.module import Batch, TrainingModule


class VaeSystem(TrainingModule):
    """Reconstruction with sharp edges, from latents whose first three channels look like the picture in small.

    Left alone, so small an autoencoder hides colours in products of its channels: a diffusion model then gets them
    wrong for long, since a small error of the latents turns green into pink.

    Args:
        vae: the network to train.
        square_weight: of the squared error, beside the absolute error.
        edge_weight: of the absolute error of neighbouring pixels' differences.
        kl_weight: of the mean divergence per latent, in nats.
        colour_weight: of the squared distance between the first three channels and the picture at the latents' size.
        colour_mean: pixel value in [-1, 1] that becomes latent 0.
        colour_std: difference of pixel values that becomes 1 (both over the training pictures, background included).
    """

    publishes = "vae"

    def __init__(
        self,
        *,
        vae: AutoencoderKL,
        square_weight: float,
        edge_weight: float,
        kl_weight: float,
        colour_weight: float,
        colour_mean: float,
        colour_std: float,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.vae = vae
        self.square_weight, self.edge_weight, self.kl_weight = square_weight, edge_weight, kl_weight
        self.colour_weight, self.colour_mean, self.colour_std = colour_weight, colour_mean, colour_std

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        pixels = batch["pixels"]
        posterior = self.vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device)
        decoded = self.vae.decode(posterior.mean + posterior.std * noise.to(posterior.mean)).sample.float()
        absolute, square = F.l1_loss(decoded, pixels), F.mse_loss(decoded, pixels)
        edges = sum(F.l1_loss(decoded.diff(dim=dim), pixels.diff(dim=dim)) for dim in (-1, -2))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        small = F.adaptive_avg_pool2d(pixels, posterior.mean.shape[-2:])
        colour = F.mse_loss(posterior.mean[:, :3].float(), (small - self.colour_mean) / self.colour_std)
        loss = absolute + self.square_weight * square + self.edge_weight * edges
        loss = loss + self.kl_weight * kl + self.colour_weight * colour
        # From the error rather than by `psnr`, which refuses NaN: a step that diverged is the loop's to judge.
        error = (in_range(decoded) - in_range(pixels)).square().mean(dim=(1, 2, 3))
        return {"loss": loss, "absolute": absolute, "kl": kl, "colour": colour, "psnr": decibels(error).mean()}

    def preview(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "3 height width"]:
        """Originals above, their reconstructions below."""
        pixels = batch["pixels"]
        rows = torch.stack([pixels, self.vae(pixels).sample.float()])
        return rearrange(in_range(rows), "r b c h w -> c (r h) (b w)")

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The autoencoder's weights under its own names."""
        return {name.removeprefix("vae."): tensor for name, tensor in state.items()}

    @torch.no_grad()
    def publish(self, folder: Path, *, root: str) -> dict[str, float]:
        """Save in diffusers' format, with the scaling factor that brings latents to deviation 1; measure held-out PSNR.

        The factor is taken from sampled latents of training images (Rombach et al. 2022, section G).
        """
        self.vae.eval()
        train, test = open_pack(root, "train", None), open_pack(root, "test")
        sampler = torch.Generator().manual_seed(0)
        numbers = torch.linspace(0, len(train.uids) - 1, min(64, len(train.uids))).long().tolist()
        images = (train.pixels(number, list(range(0, 32, 2))) for number in numbers)
        std = float(torch.cat([self.vae.encode(pixels).latent_dist.sample(sampler) for pixels in images]).std())
        self.vae.register_to_config(scaling_factor=1 / std)
        images = (test.pixels(number, list(range(32))) for number in range(len(test.uids)))
        scores = torch.stack([psnr(in_range(self.vae(pixels).sample), in_range(pixels)).mean() for pixels in images])
        self.vae.save_pretrained(folder)
        return {"test_psnr_db": float(scores.mean()), "worst_object_psnr_db": float(scores.min()), "latent_std": std}


def in_range(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as images in [0, 1]; what leaves the range is cut as an image file would cut it."""
    return (pixels.clamp(-1, 1) + 1) / 2
