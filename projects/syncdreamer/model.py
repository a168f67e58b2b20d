"""SyncDreamer's denoiser: a Zero-1-to-3 UNet whose decoder looks into a volume that all views share.

Liu et al. 2023 (arXiv 2309.03453). `denoise(x_t, t)` predicts the noise of all N views jointly: eq. 6 with the
condition of figure 4. The backbone is a stock diffusers UNet; ours are the volume and ten depth-wise attention blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from diffusers import UNet2DConditionModel
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.attention.depth import DepthTransformer
from core.cameras.embeddings import polar_embedding
from core.cameras.poses import from_world_to_camera
from core.cameras.rigs import syncdreamer as syncdreamer_rig
from core.diffusion.guidance import classifier_free_guidance
from core.diffusion.schedules import NoiseSchedule, timestep_embedding
from core.errors import BadConfig, BadRequest
from core.models.unet import pose_projection, single_token_unet, walk_unet
from core.types import Cameras
from projects.syncdreamer.volume import SpatialVolume

TARGET_ELEVATION_RAD = torch.pi / 6


@dataclass(frozen=True)
class Condition:
    """What is known of the input view: its embedding, its latents as the UNet reads them, its elevation."""

    context: Float[Tensor, "b 1 e"]
    latents: Float[Tensor, "b c h w"]  # unscaled: Zero-1-to-3 concatenates the VAE's own units
    elevation: Float[Tensor, "b"]  # radians

    def without_latents(self, keep: Float[Tensor, "b"]) -> "Condition":
        """The condition with its latents multiplied by 0 or 1 per sample."""
        return replace(self, latents=self.latents * keep[:, None, None, None])


class SyncDreamer(nn.Module):
    """Joint noise prediction for N fixed views."""

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        volume: SpatialVolume,
        volume_channels: Sequence[int] = (64, 128, 256, 512),
        num_views: int = 16,
        image_size: int = 256,
        time_dim: int = 256,
        view_dim: int = 4,
        num_heads: int = 4,
        folded_attention: bool = True,
        attention: Literal["torch", "eager", "xformers"] = "torch",
        recompute: bool = False,
        prediction: Literal["noise", "velocity"] = "noise",
        beta_end: float = 0.012,
    ) -> None:
        """
        Args:
            volume_channels: of the frustum volumes, finest first.
            folded_attention: the fast depth attention; same numbers.
            attention: the kernel of the UNet's self-attention; the same to rounding.
            recompute: recompute activations in the backward pass instead of keeping them.
            prediction: what the UNet's output means; published weights give the noise. From scratch, at toybox
                scale, the velocity learns the condition far sooner: an error of the image hardly shows in much noise.
            beta_end: the last beta; published: 0.012, which leaves some of the image in x_T.
        """
        super().__init__()
        volume.check_views(num_views)
        levels = len(unet.config.block_out_channels)
        if tuple(volume_channels) != volume.frustum_net.channels or len(volume_channels) != levels:
            raise BadConfig(
                f"volume_channels={list(volume_channels)}: expected frustum_net.channels, which is "
                f"{list(volume.frustum_net.channels)}, one for each of the UNet's {levels} levels"
            )
        self.num_views = num_views
        self.image_size = image_size
        self.time_dim = time_dim
        self.recompute = recompute
        self.prediction = prediction
        self.unet = single_token_unet(unet, attention)
        self.volume = volume
        self.time_embedding = nn.Sequential(nn.Linear(time_dim, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim))
        self.view_projection = pose_projection(unet.config.cross_attention_dim, view_dim)

        def depth_block(channels: int, level: int) -> DepthTransformer:
            return DepthTransformer(
                channels=channels, context_channels=volume_channels[level], num_heads=num_heads, folded=folded_attention
            )

        self.sites = attention_sites(unet.config.block_out_channels, unet.config.layers_per_block)
        self.depth_middle = depth_block(unet.config.block_out_channels[-1], len(unet.config.block_out_channels) - 1)
        self.depth_up = nn.ModuleList(depth_block(channels, level) for _, channels, level in self.sites)
        self.schedule = NoiseSchedule(end=beta_end)

        cameras = syncdreamer_rig(size=image_size, num_views=num_views)
        azimuths = torch.arange(num_views) * (2 * torch.pi / num_views)
        # Saved with the weights, as the published model does: a checkpoint brings the cameras it was trained with.
        self.register_buffer("world_to_camera", cameras.world_to_camera[:, :3].contiguous())
        self.register_buffer("intrinsics", cameras.intrinsics.contiguous())
        self.register_buffer("azimuths", (azimuths + torch.pi) % (2 * torch.pi) - torch.pi)

    @property
    def cameras(self) -> Cameras:
        """The N target cameras."""
        return Cameras(from_world_to_camera(self.world_to_camera), self.intrinsics, self.image_size, self.image_size)

    def embed_views(self, elevation: Float[Tensor, "b"]) -> Float[Tensor, "b v 4"]:
        """Polar difference of every target view to an input view of that elevation (azimuth 0, same distance)."""
        azimuth = (self.azimuths - self.azimuths[0]).expand(len(elevation), -1)
        # Polar angles fall as elevations rise: (90 - 30) - (90 - elevation) degrees.
        polar = (elevation[:, None] - TARGET_ELEVATION_RAD).expand_as(azimuth)
        return polar_embedding(polar, azimuth, torch.zeros_like(azimuth))

    def embed_time(self, t: Int[Tensor, "b"]) -> Float[Tensor, "b t"]:
        """The volume's time embedding (the UNet has its own)."""
        return self.time_embedding(timestep_embedding(t, self.time_dim).to(self.time_embedding[0].weight.dtype))

    def project_context(self, context: Tensor, view: Float[Tensor, "b k 4"]) -> Float[Tensor, "bk 1 e"]:
        """The input image's embedding together with each view's position, one token per view."""
        tokens = torch.cat([context.expand(-1, view.shape[1], -1), view.to(context.dtype)], dim=-1)
        return rearrange(self.view_projection(tokens), "b k e -> (b k) 1 e")

    def predict(
        self,
        x: Float[Tensor, "n c h w"],
        t: Int[Tensor, "n"],
        context: Float[Tensor, "n 1 e"],
        latents: Float[Tensor, "n c h w"],
        frustums: Sequence[Tensor] | None,
    ) -> Float[Tensor, "n c h w"]:
        """Noise of single views. `frustums=None` stands for empty volumes, at the cost of a constant per layer."""

        def look(block: DepthTransformer, x: Tensor, level: int) -> Tensor:
            return x + block.empty_residual(x) if frustums is None else block(x, frustums[level])

        def after_up_layer(x: Tensor, layer: int) -> Tensor:
            site = layer - self.sites[0][0]
            return x if site < 0 else look(self.depth_up[site], x, self.sites[site][2])

        output = walk_unet(
            self.unet,
            torch.cat([x, latents], dim=1),
            t,
            context,
            after_middle=lambda x: look(self.depth_middle, x, len(self.unet.config.block_out_channels) - 1),
            after_up_layer=after_up_layer,
            recompute=self.recompute and self.training,
        )
        return self.schedule.noise_of(output, x, t, prediction=self.prediction)

    def predict_views(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        condition: Condition,
        indices: Int[Tensor, "b k"],
        *,
        keep_volume: Float[Tensor, "b"] | None = None,
        keep_context: Float[Tensor, "b"] | None = None,
        with_volume: bool = True,
    ) -> Float[Tensor, "b k c h w"]:
        """Noise of each sample's views `indices`, in the light of all its noisy views `x` (training).

        Args:
            keep_volume: multiplies the frustums by 0 or 1 per sample.
            keep_context: multiplies the projected context by 0 or 1 per sample.
            with_volume: False leaves the volume empty, and unbuilt: each view is predicted by itself.
        """
        view = self.embed_views(condition.elevation)
        frustums = None
        if with_volume:
            time = self.embed_time(t)
            volume = self.volume.build(x, time, view, self.cameras)
            frustums = self.volume.frustums(volume, time, view, self.cameras, indices, x.shape[-1])
        per_view = indices.shape[1]
        chosen = torch.take_along_dim(x, indices[..., None, None, None], dim=1)
        context = self.project_context(condition.context, torch.take_along_dim(view, indices[..., None], dim=1))
        if keep_volume is not None and frustums is not None:
            frustums = [f * keep_volume.repeat_interleave(per_view)[:, None, None, None, None] for f in frustums]
        if keep_context is not None:
            context = context * keep_context.repeat_interleave(per_view)[:, None, None]
        noise = self.predict(
            rearrange(chosen, "b k c h w -> (b k) c h w"),
            t.repeat_interleave(per_view),
            context,
            condition.latents.repeat_interleave(per_view, dim=0),
            frustums,
        )
        return rearrange(noise, "(b k) c h w -> b k c h w", k=per_view)

    def denoise(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, "b"],
        condition: Condition,
        *,
        guidance_scale: float = 2.0,
        views_per_batch: int = 8,
    ) -> Float[Tensor, "b v c h w"]:
        """Guided noise of all views (sampling); `views_per_batch` bounds the memory and does not change the result."""
        batch, num_views = x.shape[:2]
        if num_views != self.num_views:
            raise BadRequest(
                f"this SyncDreamer makes exactly {self.num_views} views, {num_views} were asked for; "
                "for free numbers of views or poses use projects.viewfusion"
            )
        view, time = self.embed_views(condition.elevation), self.embed_time(t)
        volume = self.volume.build(x, time, view, self.cameras)
        noise = []
        for chunk in torch.arange(num_views, device=x.device).split(views_per_batch):
            indices = repeat(chunk, "k -> b k", b=batch)
            frustums = self.volume.frustums(volume, time, view, self.cameras, indices, x.shape[-1])
            x_chunk = rearrange(x[:, chunk], "b k c h w -> (b k) c h w")
            t_chunk = t.repeat_interleave(len(chunk))
            context = self.project_context(condition.context, view[:, chunk])
            latents = condition.latents.repeat_interleave(len(chunk), dim=0)
            eps = self.predict(x_chunk, t_chunk, context, latents, frustums)
            if guidance_scale != 1.0:
                # The null condition is zero after the projection, and sees an empty volume.
                empty = self.predict(x_chunk, t_chunk, torch.zeros_like(context), torch.zeros_like(latents), None)
                eps = classifier_free_guidance(eps, empty, guidance_scale)
            noise.append(rearrange(eps, "(b k) c h w -> b k c h w", b=batch))
        return torch.cat(noise, dim=1)

    def parameter_groups(
        self,
        lr: float,
        *,
        finetune_unet: bool = False,
        finetune_projection: bool = False,
        fresh_lr_scale: float = 10.0,
    ) -> list[dict]:
        """What the paper trains: depth attention at `lr`, volume and time embedding at `fresh_lr_scale` times that.

        `finetune_unet` adds the backbone, `finetune_projection` the context projection (first, as upstream does).
        """
        depth = [*self.depth_middle.parameters(), *self.depth_up.parameters()]
        groups = [{"params": list(self.view_projection.parameters()), "lr": lr}] if finetune_projection else []
        backbone = [*self.unet.parameters(), *depth] if finetune_unet else depth
        return groups + [
            {"params": backbone, "lr": lr},
            {"params": list(self.time_embedding.parameters()), "lr": fresh_lr_scale * lr},
            {"params": list(self.volume.parameters()), "lr": fresh_lr_scale * lr},
        ]


def attention_sites(block_out_channels: Sequence[int], layers_per_block: int) -> list[tuple[int, int, int]]:
    """Decoder layers that look into the volume: (layer, its channels, level of the volume), deepest first.

    All decoder layers but the deepest block's; where a layer ends a block it is upsampled first, so it reads the next
    finer level while it still has its own block's width.
    """
    num_levels = len(block_out_channels)
    per_block = layers_per_block + 1
    sites = []
    for block in range(1, num_levels):
        level = num_levels - 1 - block
        for index in range(per_block):
            finer = index == per_block - 1 and level > 0
            sites.append((block * per_block + index, block_out_channels[level], level - finer))
    return sites
