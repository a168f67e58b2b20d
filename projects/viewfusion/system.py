"""Training Zero-1-to-3, and the whole model with its VAE and image encoder.

Liu et al. 2023, section 3.2: the noise of one view, given another view and the pose between them (eq. 2).
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.attention.multiview import idle_parameters
from core.config import number, whole
from core.diffusion.schedules import NoiseSchedule
from core.images import check_image_size, contact_sheet
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from core.training.denoising import NoisyFirstModule
from projects.viewfusion.model import Zero123
from projects.viewfusion.sampler import References, ddim_schedule, sample
from projects.viewfusion.weights import load_start

DROP_EACH = 0.05  # probability of dropping the image's embedding, its latents, or both


class Zero123System(NoisyFirstModule):
    """The denoiser with the frozen networks around it.

    Args:
        projection_lr_scale: learning rate of what joins image and pose, in units of `lr`.
        start: weights to train on: `sd-image-conditioned-v2.ckpt` as the paper does, or a Zero-1-to-3's.
        preview_steps: sampling steps of a validation picture.
        preview_scale: its guidance scale.
    """

    def __init__(
        self,
        *,
        denoiser: Zero123,
        latents: Latents,
        image_encoder: ImageEncoder,
        projection_lr_scale: float = 10.0,
        start: str | None = None,
        preview_steps: int = 50,
        preview_scale: float = 3.0,
        **training,
    ) -> None:
        super().__init__(**training)
        number("projection_lr_scale", projection_lr_scale, 0)
        number("preview_scale", preview_scale, 0)
        whole("preview_steps", preview_steps, most=denoiser.schedule.num_timesteps)
        self.denoiser = denoiser
        self.latents = latents.requires_grad_(False)
        self.image_encoder = image_encoder.requires_grad_(False)
        self.projection_lr_scale = projection_lr_scale
        for parameter in idle_parameters(denoiser.unet):
            parameter.requires_grad_(False)
        self.preview_steps = preview_steps
        self.preview_scale = preview_scale
        if start is not None:
            load_start(self, start)

    def parameter_groups(self, lr: float) -> list[dict]:
        """The UNet at `lr`, what joins image and pose at `projection_lr_scale` times that."""
        backbone = [parameter for parameter in self.denoiser.unet.parameters() if parameter.requires_grad]
        projection = list(self.denoiser.pose_projection.parameters())
        return [{"params": backbone, "lr": lr}, {"params": projection, "lr": self.projection_lr_scale * lr}]

    def averaged(self) -> dict[str, torch.nn.Parameter]:
        """The UNet alone, as officially: the projection is used as it was trained last."""
        return {name: value for name, value in self.trained().items() if name.startswith("denoiser.unet.")}

    @torch.no_grad()
    def encode(
        self, batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, "b c2 h w"], Float[Tensor, "b c h w"], Float[Tensor, "b 1 e"]]:
        """The target's moments, and the input's latents and embedding, of pixels or of what was encoded beforehand."""
        self._check_size(batch)
        if "target_moments" in batch:
            return batch["target_moments"], self.unscaled(batch["input_moments"]), batch["input_embedding"]
        moments = self.latents.moments(torch.cat([batch["target_pixels"], batch["input_pixels"]]))
        target, given = moments.chunk(2)
        return target, self.unscaled(given), self.image_encoder(batch["input_pixels"])

    def unscaled(self, moments: Float[Tensor, "b c2 h w"]) -> Float[Tensor, "b c h w"]:
        """What the UNet reads of the input view: the mean, without the factor of the latents that it denoises."""
        return self.latents.mode(moments) / self.latents.scaling_factor

    def _check_size(self, batch: Mapping[str, Tensor]) -> None:
        encoded = "target_moments" in batch
        side = batch["target_moments" if encoded else "target_pixels"].shape[-1]
        check_image_size(side * (self.latents.reduction if encoded else 1), self.denoiser.image_size)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        device = batch["pose"].device

        def draw(maker, *shape: int) -> Tensor:
            return maker(*shape, generator=generator, device=generator.device).to(device)

        # The order of the official draws: the VAE's noise, drops, t, noise.
        moments, latents, tokens = self.encode(batch)
        x_0 = self.latents.sample(moments, generator)
        drop = draw(torch.rand, len(x_0))
        t = self.denoiser.schedule.draw_timesteps(len(x_0), generator, power=self.power_now).to(device)
        noise = draw(torch.randn, *x_0.shape)
        keep_token, keep_latents = keep_masks(drop)
        context = self.denoiser.project(tokens * keep_token[:, None, None], batch["pose"])
        return self.noise_loss(x_0, t, noise, context, latents * keep_latents[:, None, None, None])

    def noise_loss(
        self,
        x_0: Float[Tensor, "b c h w"],
        t: Int[Tensor, "b"],
        noise: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b 1 e"],
        latents: Float[Tensor, "b c h w"],
    ) -> dict[str, Tensor]:
        """Mean squared error of the noise (or velocity), and the variational bound's, which is only logged.

        Args:
            x_0: scaled latents of the target.
            context: after the projection, with what is dropped.
            latents: unscaled ones of the input view, with what is dropped.
        """
        schedule = self.denoiser.schedule
        predicted = self.denoiser.predict(schedule.add_noise(x_0, noise, t), t, context, latents)
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        bound = (variational_weights(schedule)[t] * error).mean()
        if self.denoiser.prediction == "velocity":  # the velocity's error is the noise's, divided by sqrt(abar_t)
            error = error / schedule.alphas_cumprod[t]
        return {"loss": error.mean(), "loss_vlb": bound.detach()}

    @torch.no_grad()
    def preview(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        """For each sample a row: the input, the true view, and the view made from the input, all decoded."""
        moments, latents, tokens = self.encode(batch)
        context = self.denoiser.project(tokens, batch["pose"])
        steps = ddim_schedule(
            self.denoiser.schedule.alphas_cumprod, self.preview_steps, eta=0.0, spacing="trailing", drop_last=False
        )

        def normal(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device).to(latents)

        made = [
            sample(
                self.denoiser,
                References(token[None], image[None], latents.new_ones(1)),
                normal,
                schedule=steps,
                guidance_scale=self.preview_scale,
            )
            for token, image in zip(context, latents, strict=True)
        ]
        scale = self.latents.scaling_factor
        rows = torch.stack([latents * scale, self.latents.mode(moments), torch.cat(made)], dim=1)
        pixels = self.latents.decode(rows.flatten(0, 1))
        return contact_sheet((pixels.float().clamp(-1, 1) + 1) / 2, rows.shape[1])


def keep_masks(drop: Float[Tensor, "b"]) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Factors 0 or 1 for the image's embedding and its latents.

    Of the twentieths of [0, 1) the first drops the embedding, the second both, the third the latents, and the others
    nothing. The pose is never dropped.
    """
    keep_token = drop >= 2 * DROP_EACH
    keep_latents = (drop < DROP_EACH) | (drop >= 3 * DROP_EACH)
    return keep_token.to(drop.dtype), keep_latents.to(drop.dtype)


def variational_weights(schedule: NoiseSchedule) -> Float[Tensor, "t"]:
    """beta^2 / (2 sigma^2 alpha (1 - abar)), the bound's weights of the noise's error (Ho et al. 2020, eq. 12).

    At t = 0 the posterior has no variance; as in the official code it takes the weight of t = 1.
    """
    weights = schedule.betas**2 / (
        2 * schedule.posterior_variance * (1 - schedule.betas) * (1 - schedule.alphas_cumprod)
    )
    return torch.cat([weights[1:2], weights[1:]])
