"""Training SyncDreamer, and the whole model with its VAE and image encoder.

Liu et al. 2023, section 4.1: all N noisy views build one volume, the loss is the noise's squared error at one view
(eq. 4).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from core.attention.multiview import idle_parameters
from core.config import number, whole
from core.diffusion.samplers import uniform_timesteps
from core.errors import BadConfig, BadData, BadRequest
from core.images import check_image_size, contact_sheet
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from core.training.denoising import DenoiserModule
from projects.syncdreamer.model import Condition, SyncDreamer
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.weights import load_start

DROP_EACH = 0.05  # probability of dropping all, the concatenated latents, the volume, or the image's embedding


class SyncDreamerSystem(DenoiserModule):
    """The denoiser with the frozen networks around it.

    Args:
        num_target_views: views per sample at which the loss is taken (the paper: 1; more share one volume).
        single_view_until: fraction of the run in which every view is learnt by itself and no volume is built. That is
            Zero-1-to-3, which the paper starts from; at half the cost it teaches what the far side may look like.
        timestep_power: draws t as T u^(1 / power), u uniform in [0, 1): more than 1 draws more of much noise.
        single_view_timestep_power: the same while views are learnt by themselves; None: as ever.
        drop_conditions: drop parts of the condition now and then, so that guidance needs no pretrained null condition.
        finetune_unet: train the backbone too (the paper keeps it frozen; from scratch it must be trained).
        finetune_projection: train the context projection too.
        start: weights to fine-tune: Zero-1-to-3's (`zero123-xl.ckpt`), or a SyncDreamer's, published or ours.
        preview_steps: sampling steps of a validation picture.
        preview_scale: its guidance scale.
        fresh_lr_scale: the volume's and the time embedding's learning rate, in units of `lr`.
    """

    def __init__(
        self,
        *,
        denoiser: SyncDreamer,
        latents: Latents,
        image_encoder: ImageEncoder,
        num_target_views: int = 1,
        single_view_until: float = 0.0,
        timestep_power: float = 1.0,
        single_view_timestep_power: float | None = None,
        drop_conditions: bool = False,
        finetune_unet: bool = False,
        finetune_projection: bool = False,
        fresh_lr_scale: float = 10.0,
        start: str | None = None,
        preview_steps: int = 50,
        preview_scale: float = 2.0,
        **training,
    ) -> None:
        super().__init__(**training)
        whole("num_target_views", num_target_views, most=denoiser.num_views)
        number("preview_scale", preview_scale, 0)
        number("fresh_lr_scale", fresh_lr_scale, 0)
        number("timestep_power", timestep_power, 0.1, 100)
        if single_view_timestep_power is not None:
            number("single_view_timestep_power", single_view_timestep_power, 0.1, 100)
        number("single_view_until", single_view_until, 0, 1)
        if single_view_until and not finetune_unet:
            raise BadConfig(f"single_view_until={single_view_until} needs a backbone that learns: finetune_unet=true")
        try:
            uniform_timesteps(preview_steps, denoiser.schedule.num_timesteps)
        except BadRequest as error:
            raise BadConfig(f"preview_steps={preview_steps}: {error}") from error
        self.denoiser = denoiser
        self.latents = latents.requires_grad_(False)
        self.image_encoder = image_encoder.requires_grad_(False)
        self.num_target_views = num_target_views
        self.single_view_until = single_view_until
        self.has_idle_parameters = single_view_until > 0
        self.timestep_powers = (
            timestep_power if single_view_timestep_power is None else single_view_timestep_power,
            timestep_power,
        )
        self.drop_conditions = drop_conditions
        self.finetune_unet = finetune_unet
        self.finetune_projection = finetune_projection
        self.fresh_lr_scale = fresh_lr_scale
        # The official code leaves these trainable outside the optimiser and throws their gradients away.
        denoiser.unet.requires_grad_(finetune_unet)
        for parameter in idle_parameters(denoiser.unet):
            parameter.requires_grad_(False)
        denoiser.view_projection.requires_grad_(finetune_projection)
        self.preview_steps = preview_steps
        self.preview_scale = preview_scale
        if start is not None:
            load_start(self, start)

    @property
    def with_volume(self) -> bool:
        """Whether the run has come to the views together."""
        return self.progress >= self.single_view_until

    def parameter_groups(self, lr: float) -> list[dict]:
        return self.denoiser.parameter_groups(
            lr,
            finetune_unet=self.finetune_unet,
            finetune_projection=self.finetune_projection,
            fresh_lr_scale=self.fresh_lr_scale,
        )

    @torch.no_grad()
    def encode(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b v c h w"], Condition]:
        """Sampled latents of the target views, and the condition, of pixels or of moments encoded beforehand."""
        self._check_views(batch)
        if "target_moments" in batch:
            target_moments = rearrange(batch["target_moments"], "b v c h w -> (b v) c h w")
            input_moments = batch["input_moments"]
            context = batch["input_embedding"]
        else:
            target_moments = self.latents.moments(rearrange(batch["target_pixels"], "b v c h w -> (b v) c h w"))
            input_moments = self.latents.moments(batch["input_pixels"])
            context = self.image_encoder(batch["input_pixels"])
        targets = self.latents.sample(target_moments, generator)
        inputs = self.latents.sample(input_moments, generator)
        targets = rearrange(targets, "(b v) c h w -> b v c h w", b=len(inputs))
        return targets, self.condition(context, inputs, batch["input_elevation"][:, 0])

    def _check_views(self, batch: Mapping[str, Tensor]) -> None:
        views = batch["target_moments" if "target_moments" in batch else "target_pixels"]
        if views.shape[1] != self.denoiser.num_views:
            raise BadData(
                f"the data has {views.shape[1]} target views per object, the model {self.denoiser.num_views}; set "
                f"model.denoiser.num_views={views.shape[1]} (and what depends on it), or choose other data"
            )
        reduction = self.latents.reduction if "target_moments" in batch else 1
        check_image_size(views.shape[-1] * reduction, self.denoiser.image_size)

    def condition(self, context: Tensor, scaled_latents: Tensor, elevation: Tensor) -> Condition:
        """The UNet concatenates unscaled latents, unlike the ones it denoises."""
        return Condition(context, scaled_latents / self.latents.scaling_factor, elevation)

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        device = batch["input_elevation"].device
        batch_size = len(batch["input_elevation"])

        def draw(maker, *args, **kwargs) -> Tensor:
            return maker(*args, **kwargs, generator=generator, device=generator.device).to(device)

        # The order of the official draws: t, the VAE's noise (views, then input), noise, target views, drops.
        power = self.timestep_powers[self.with_volume]
        t = self.denoiser.schedule.draw_timesteps(batch_size, generator, power=power).to(device)
        x_0, condition = self.encode(batch, generator)
        noise = draw(torch.randn, x_0.shape)
        order = torch.stack([draw(torch.randperm, self.denoiser.num_views) for _ in range(batch_size)])
        indices = order[:, : self.num_target_views]
        drop = draw(torch.rand, batch_size) if self.drop_conditions else None
        return {"loss": self.noise_loss(x_0, condition, t, noise, indices, drop)}

    def noise_loss(
        self,
        x_0: Float[Tensor, "b v c h w"],
        condition: Condition,
        t: Int[Tensor, "b"],
        noise: Float[Tensor, "b v c h w"],
        indices: Int[Tensor, "b k"],
        drop: Float[Tensor, "b"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the noise (or velocity) at the views `indices`.

        Args:
            drop: in [0, 1), chooses what of the condition is dropped (`keep_masks`); None drops nothing.
        """
        keep_volume = keep_context = None
        if drop is not None:
            keep_latents, keep_volume, keep_context = keep_masks(drop)
            condition = condition.without_latents(keep_latents)
        x_t = self.denoiser.schedule.add_noise(x_0, noise, t)
        predicted = self.denoiser.predict_views(
            x_t,
            t,
            condition,
            indices,
            keep_volume=keep_volume,
            keep_context=keep_context,
            with_volume=self.with_volume,
        )
        error = F.mse_loss(
            predicted, torch.take_along_dim(noise, indices[..., None, None, None], dim=1), reduction="none"
        )
        if self.denoiser.prediction == "velocity":  # the velocity's error is the noise's, divided by sqrt(abar_t)
            error = error / self.denoiser.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        return error.mean()

    @torch.no_grad()
    def preview(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        """Rows of the input and 16 views: the true ones, where they are known, above those made from the input."""
        known = "target_pixels" in batch or "target_moments" in batch
        if known:
            targets, condition = self.encode(batch, generator)
        else:
            pixels = batch["input_pixels"]
            latents = self.latents.encode(pixels, generator)
            condition = self.condition(self.image_encoder(pixels), latents, batch["input_elevation"][:, 0])
        made = sample(
            self.denoiser,
            condition,
            lambda shape: torch.randn(shape, generator=generator, device=generator.device).to(condition.latents),
            num_steps=self.preview_steps,
            guidance_scale=self.preview_scale,
        )
        given = condition.latents[:, None] * self.latents.scaling_factor
        rows = torch.stack(
            [torch.cat([given, views], dim=1) for views in ([targets, made] if known else [made])], dim=1
        )
        pixels = self.latents.decode(rearrange(rows, "b r v c h w -> (b r v) c h w"))
        return contact_sheet((pixels.float().clamp(-1, 1) + 1) / 2, rows.shape[2])


def keep_masks(
    drop: Float[Tensor, "b"],
) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Factors 0 or 1 for latents, volume and embedding.

    Of the twentieths of [0, 1) the first drops all three, the next three drop one each, and the others drop none.
    """
    everything = drop <= DROP_EACH
    masks = []
    for part in (1, 2, 3):
        alone = (drop > part * DROP_EACH) & (drop <= (part + 1) * DROP_EACH)
        masks.append((~(everything | alone)).to(drop.dtype))
    return masks[0], masks[1], masks[2]
