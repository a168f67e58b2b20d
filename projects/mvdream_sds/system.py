"""Training MVDream's multi-view model, and the whole model with its autoencoder and text encoder.

Shi et al. 2023, eq. 1 and section 3.2: the noise of all views of an object, of a text and their cameras, with one
timestep for all; and the noise of single images of a text, as Stable Diffusion learnt it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.config import number, whole
from core.errors import BadConfig
from core.images import check_image_size, contact_sheet
from core.models.latents import Latents
from core.models.text import TextEncoder
from core.training.denoising import NoisyFirstModule
from projects.mvdream_sds.data import captions_of
from projects.mvdream_sds.lora import LoraSettings, add_lora, export_lora
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.sampler import sample, uniform_steps
from projects.mvdream_sds.settings import check_adapters
from projects.mvdream_sds.start import load_start


class MultiViewSystem(NoisyFirstModule):
    """The denoiser with the frozen networks around it.

    Args:
        caption_drop: probability that a caption is replaced by the empty one, for classifier-free guidance.
        camera_drop: probability that an object's views are learnt without their cameras.
        camera_lr_scale: learning rate of the cameras' embedding, in units of `lr`: it alone may be new.
        start: weights to train on (`start.load_start`): a Stable Diffusion, or an MVDream, published or ours.
        lora: learn adapters of the attentions and leave all else as `start` has it.
        preview_steps: sampling steps of a validation picture.
        preview_scale: its guidance scale.
    """

    has_idle_parameters = True  # a step of single images leaves the cameras' embedding alone
    teaches_cameras = True

    def __init__(
        self,
        *,
        denoiser: MultiViewDenoiser,
        latents: Latents,
        text_encoder: TextEncoder,
        caption_drop: float = 0.1,
        camera_drop: float = 0.0,
        camera_lr_scale: float = 1.0,
        start: str | None = None,
        lora: dict[str, Any] | None = None,
        preview_steps: int = 50,
        preview_scale: float = 10.0,
        **training,
    ) -> None:
        super().__init__(**training)
        for key, value in {
            "caption_drop": caption_drop,
            "camera_drop": camera_drop,
        }.items():
            number(key, value, 0, 1)
        number("camera_lr_scale", camera_lr_scale, 0)
        number("preview_scale", preview_scale, 0)
        whole("preview_steps", preview_steps, most=denoiser.schedule.num_timesteps)
        self.denoiser = denoiser
        self.latents = latents.requires_grad_(False)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.caption_drop, self.camera_drop = caption_drop, camera_drop
        self.camera_lr_scale = camera_lr_scale
        self.preview_steps, self.preview_scale = preview_steps, preview_scale
        self._null: Tensor | None = None
        self.lora = None if lora is None else LoraSettings.of(lora)
        check_adapters(lora, start)
        if start is not None and not load_start(self, start) and (self.lora or not self.teaches_cameras):
            raise BadConfig(
                f"model.start={start} knows no cameras, and this training teaches none, so what reads them would stay "
                "random; start from an MVDream, such as model.start=ckpt/sd-v2.1-base-4view.pt"
            )
        if self.lora is not None:
            add_lora(denoiser, self.lora)

    def parameter_groups(self, lr: float) -> list[dict]:
        """The UNet (or its adapters) at `lr`, the cameras' embedding at `camera_lr_scale` times that."""
        cameras = [p for p in self.denoiser.camera_embed.parameters() if p.requires_grad]
        backbone = [p for p in self.denoiser.unet.parameters() if p.requires_grad]
        groups = [{"params": backbone, "lr": lr}, {"params": cameras, "lr": self.camera_lr_scale * lr}]
        return [group for group in groups if group["params"]]

    def loss(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Of objects where the batch has cameras, else of groups of single images (`projects.mvdream_sds.data`)."""
        x_0, context, camera = self.encode(batch, generator)
        device = x_0.device

        def draw(maker, *shape: int) -> Tensor:
            return maker(*shape, generator=generator, device=generator.device).to(device)

        drop_caption = draw(torch.rand, len(x_0)) < self.caption_drop
        drop_camera = draw(torch.rand, len(x_0)) < self.camera_drop
        t = self.denoiser.schedule.draw_timesteps(len(x_0), generator, power=self.power_now).to(device)
        noise = draw(torch.randn, *x_0.shape)
        context = torch.where(drop_caption[:, None, None, None], self.null_context, context)
        loss = self.noise_loss(x_0, t, noise, context, camera, drop_camera)
        return {"loss": loss, "loss_2d" if camera is None else "loss_3d": loss.detach()}

    @torch.no_grad()
    def encode(
        self, batch: Mapping[str, Any], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b v c h w"], Float[Tensor, "b 1 l e"], Float[Tensor, "b v d"] | None]:
        """Sampled latents, the text's context and the cameras: of objects, or of single images, of one view each."""
        is_encoded, camera = "moments" in batch, batch.get("camera")
        given = batch["moments" if is_encoded else "pixels"]
        check_image_size(given.shape[-1] * (self.latents.reduction if is_encoded else 1), self.denoiser.image_size)
        context = batch["context"] if "context" in batch else self.text_encoder(captions_of(batch))
        if camera is None:
            given = rearrange(given, "b g c h w -> (b g) 1 c h w")
            context = rearrange(context, "b g l e -> (b g) l e") if "context" in batch else context
        flat = rearrange(given, "b v c h w -> (b v) c h w")
        x_0 = self.latents.sample(flat if is_encoded else self.latents.moments(flat), generator)
        return rearrange(x_0, "(b v) c h w -> b v c h w", b=len(given)), context[:, None], camera

    def noise_loss(
        self,
        x_0: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        noise: Float[Tensor, "b v c h w"],
        context: Float[Tensor, "b 1 l e"],
        camera: Float[Tensor, "b v d"] | None,
        drop_camera: Bool[Tensor, "b"],
    ) -> Float[Tensor, ""]:
        """Mean squared error of the noise (or velocity).

        Args:
            t: one for all views of an object.
            drop_camera: whose cameras are left out.
        """
        x_t = self.denoiser.schedule.add_noise(x_0, noise, t)
        if camera is None or not drop_camera.any():
            predicted = self.denoiser.predict(x_t, t, context, camera)
        else:
            predicted = torch.empty_like(x_t)
            for rows, given in ((~drop_camera, camera[~drop_camera]), (drop_camera, None)):
                if rows.any():
                    made = self.denoiser.predict(x_t[rows], t[rows], context[rows], given)
                    predicted[rows] = made.to(x_t)  # autocast may have made it in 16 bits
        error = (predicted - noise).square().mean(dim=(1, 2, 3, 4))
        if self.denoiser.prediction == "velocity":  # the velocity's error is the noise's, divided by sqrt(abar_t)
            error = error / self.denoiser.schedule.alphas_cumprod[t]
        return error.mean()

    @property
    def null_context(self) -> Float[Tensor, "1 1 l e"]:
        """The empty caption's context."""
        if self._null is None or self._null.device != self.device:
            with torch.no_grad():
                self._null = self.text_encoder([""])[:, None]
        return self._null

    @torch.no_grad()
    def preview(self, batch: Mapping[str, Any], generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        """For each object its true views, where they are known, and in the next row those made from its caption."""
        known = "moments" in batch or "pixels" in batch
        if known:
            truth, context, camera = self.encode(batch, generator)
            shape = tuple(truth.shape)
        else:
            context, camera = self.text_encoder(captions_of(batch))[:, None], batch["camera"]
            config = self.denoiser.unet.config
            shape = (*camera.shape[:2], config.in_channels, config.sample_size, config.sample_size)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(context)
        made = sample(
            self.denoiser,
            context,
            self.null_context,
            camera,
            noise,
            steps=uniform_steps(self.denoiser.schedule, self.preview_steps),
            guidance_scale=self.preview_scale,
        )
        rows = rearrange([truth, made] if known else [made], "r b v c h w -> (b r v) c h w")
        return contact_sheet((self.latents.decode(rows).float().clamp(-1, 1) + 1) / 2, shape[1])

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The denoiser, or the adapters alone."""
        return super().export(state) if self.lora is None else export_lora(state)

    def export_metadata(self) -> dict[str, str]:
        return super().export_metadata() | ({} if self.lora is None else self.lora.metadata())
