"""The real classes, as small as they go."""

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from projects.syncdreamer.model import SyncDreamer
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.volume import FrustumNet, SpatialNet, SpatialVolume, TargetViewEncoder

CONTEXT = 12


def latents(scaling_factor: float = 0.5) -> Latents:
    vae = AutoencoderKL(
        block_out_channels=[8, 8, 8], norm_num_groups=4, layers_per_block=1, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
    )  # fmt: skip
    return Latents(vae, scaling_factor=scaling_factor)


def image_encoder(dim: int = CONTEXT) -> ImageEncoder:
    config = CLIPVisionConfig(
        image_size=32, patch_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        projection_dim=dim,
    )  # fmt: skip
    return ImageEncoder(CLIPVisionModelWithProjection(config))


def volume(num_views: int = 16, channels: tuple[int, ...] = (8, 16)) -> SpatialVolume:
    return SpatialVolume(
        target_encoder=TargetViewEncoder(channels=4, out_channels=2, num_blocks=1, time_dim=16),
        spatial_net=SpatialNet(in_channels=2 * num_views, channels=channels, time_dim=16),
        frustum_net=FrustumNet(in_channels=channels[0], channels=channels, time_dim=16),
        resolution=4,
        num_depths=4,
    )


def denoiser(num_views: int = 16, **options) -> SyncDreamer:
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=2, cross_attention_dim=CONTEXT,
    )  # fmt: skip
    return SyncDreamer(
        unet=unet, volume=volume(num_views), volume_channels=[8, 16], num_views=num_views, image_size=32, time_dim=16,
        **options,
    )  # fmt: skip


def system(**options) -> SyncDreamerSystem:
    return SyncDreamerSystem(denoiser=denoiser(), latents=latents(), image_encoder=image_encoder(), **options)
