"""Zero-1-to-3's denoiser (Liu et al. 2023, arXiv 2303.11328): one view, in the light of an image and a relative pose.

A stock diffusers UNet of eight input channels (noisy latents, then the image's) with cross-attention to one token,
which joins the image's embedding with the pose. ViewFusion samples with it as it is.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.diffusion.schedules import NoiseSchedule
from core.models.unet import pose_projection, single_token_unet, walk_unet

POSE_DIM = 4  # (d_polar, sin d_azimuth, cos d_azimuth, d_distance): target minus condition


class Zero123(nn.Module):
    """Noise of one view of an object, given another."""

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        image_size: int = 256,
        attention: Literal["torch", "eager", "xformers"] = "torch",
        recompute: bool = False,
        prediction: Literal["noise", "velocity"] = "noise",
        beta_end: float = 0.012,
        distances: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            image_size: side of the images that it was trained with, in pixels.
            attention: the kernel of the UNet's self-attention; the same to rounding.
            recompute: recompute activations in the backward pass instead of keeping them.
            prediction: what the UNet's output means; published weights give the noise. From scratch, at toybox
                scale, the velocity learns the condition far sooner: an error of the image hardly shows in much noise.
            beta_end: the last beta; published: 0.012, which leaves some of the image in x_T.
            distances: the least and the most of its training cameras; None where that sets no limit.
        """
        super().__init__()
        self.distances = distances
        self.image_size = image_size
        self.recompute = recompute
        self.prediction = prediction
        self.unet = single_token_unet(unet, attention)
        self.pose_projection = pose_projection(unet.config.cross_attention_dim, POSE_DIM)
        self.schedule = NoiseSchedule(end=beta_end)

    def project(self, tokens: Float[Tensor, "n 1 e"], pose: Float[Tensor, "n 4"]) -> Float[Tensor, "n 1 e"]:
        """The context: the image's embedding and the target's pose relative to it, as one token."""
        return self.pose_projection(torch.cat([tokens, pose[:, None].to(tokens.dtype)], dim=-1))

    def predict(
        self,
        x: Float[Tensor, "n c h w"],
        t: Int[Tensor, "n"],
        context: Float[Tensor, "n 1 e"],
        latents: Float[Tensor, "n c h w"],
    ) -> Float[Tensor, "n c h w"]:
        """The noise in x_t, whatever the UNet predicts.

        The null condition is a context of zeros (after the projection) and latents of zeros.

        Args:
            t: timestep, 0 the least noise.
            context: what `project` gives.
            latents: of the condition's image, unscaled: the VAE's own mean, not times its scaling factor.
        """
        output = walk_unet(
            self.unet, torch.cat([x, latents], dim=1), t, context, recompute=self.recompute and self.training
        )
        return self.schedule.noise_of(output, x, t, prediction=self.prediction)
