"""SyncDreamer's volumes: N noisy views -> one spatial volume -> one feature frustum per target view.

Liu et al. 2023, SyncDreamer, section 4.2 and appendix. All layers see the timestep; the 2D encoder and the frustum
network also see the view's embedding.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.errors import BadConfig
from core.types import Cameras
from projects.syncdreamer.geometry import depth_range, frustum_points, voxel_vertices, warp_coordinates

NUM_GROUPS = 8
UNIT_CUBE_RADIUS = 0.86603  # sqrt(3) / 2, with the official code's digits


class ViewEncoderBlock(nn.Module):
    """A 2D residual block that adds time and view to its input."""

    def __init__(self, channels: int, time_dim: int, view_dim: int) -> None:
        super().__init__()
        self.time_embed = nn.Conv2d(time_dim, channels, 1)
        self.view_embed = nn.Conv2d(view_dim, channels, 1)
        self.conv = nn.Sequential(
            nn.GroupNorm(min(NUM_GROUPS, channels), channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(min(NUM_GROUPS, channels), channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, time: Tensor, view: Tensor) -> Tensor:
        return x + self.conv(x + self.time_embed(time) + self.view_embed(view))


class TargetViewEncoder(nn.Module):
    """Features of one noisy view's latents, at the latents' size."""

    def __init__(
        self,
        *,
        in_channels: int = 4,
        channels: int = 16,
        out_channels: int = 16,
        num_blocks: int = 3,
        time_dim: int = 256,
        view_dim: int = 4,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ViewEncoderBlock(channels, time_dim, view_dim) for _ in range(num_blocks))
        self.conv_out = nn.Sequential(
            nn.GroupNorm(min(NUM_GROUPS, channels), channels),
            nn.SiLU(),
            nn.Conv2d(channels, out_channels, 3, padding=1),
        )

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b t"], view: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c_out h w"]:
        time, view = time[..., None, None], view[..., None, None]
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x, time, view)
        return self.conv_out(x)


class ConditionedConv3d(nn.Module):
    """x + time (+ view) -> GroupNorm -> SiLU -> 3D convolution, or a transposed one that doubles the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_dim: int,
        view_dim: int | None,
        stride: int = 1,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.time = nn.Conv3d(time_dim, in_channels, 1)
        self.view = None if view_dim is None else nn.Conv3d(view_dim, in_channels, 1)
        self.norm = nn.GroupNorm(NUM_GROUPS, in_channels)
        self.conv = (
            nn.ConvTranspose3d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
            if up
            else nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1)
        )

    def forward(self, x: Tensor, time: Tensor, view: Tensor | None = None) -> Tensor:
        x = x + self.time(time)
        if self.view is not None:
            x = x + self.view(view)
        return self.conv(F.silu(self.norm(x)))


class SpatialNet(nn.Module):
    """3D U-Net over the unprojected features of all views; knows the time, not the views."""

    def __init__(self, *, in_channels: int = 256, channels: Sequence[int] = (64, 128, 256, 512), time_dim: int = 256):
        super().__init__()
        kwargs = {"time_dim": time_dim, "view_dim": None}
        steps = list(pairwise(channels))
        self.conv_in = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.first = ConditionedConv3d(channels[0], channels[0], **kwargs)
        self.downs = nn.ModuleList(ConditionedConv3d(a, b, stride=2, **kwargs) for a, b in steps)
        self.blocks = nn.ModuleList(
            nn.ModuleList(ConditionedConv3d(b, b, **kwargs) for _ in range(2)) for _, b in steps
        )
        self.ups = nn.ModuleList(ConditionedConv3d(b, a, up=True, **kwargs) for a, b in reversed(steps))

    def forward(self, x: Float[Tensor, "b c z y x"], time: Float[Tensor, "b t"]) -> Float[Tensor, "b c0 z y x"]:
        time = time[..., None, None, None]
        x = self.first(self.conv_in(x), time)
        skips = []
        for down, blocks in zip(self.downs, self.blocks, strict=True):
            skips.append(x)
            x = down(x, time)
            for block in blocks:
                x = block(x, time)
        for up in self.ups:
            x = skips.pop() + up(x, time)
        return x


class FrustumNet(nn.Module):
    """3D U-Net over one view's frustum; gives a volume for every level of the UNet, finest first."""

    def __init__(
        self,
        *,
        in_channels: int = 64,
        channels: Sequence[int] = (64, 128, 256, 512),
        time_dim: int = 256,
        view_dim: int = 4,
    ) -> None:
        super().__init__()
        kwargs = {"time_dim": time_dim, "view_dim": view_dim}
        steps = list(pairwise(channels))
        self.channels = tuple(channels)
        self.conv_in = nn.Conv3d(in_channels, channels[0], 3, padding=1)
        self.downs = nn.ModuleList(ConditionedConv3d(a, b, stride=2, **kwargs) for a, b in steps)
        self.blocks = nn.ModuleList(ConditionedConv3d(b, b, **kwargs) for _, b in steps)
        self.ups = nn.ModuleList(ConditionedConv3d(b, a, up=True, **kwargs) for a, b in reversed(steps))

    def forward(
        self, x: Float[Tensor, "b c d h w"], time: Float[Tensor, "b t"], view: Float[Tensor, "b e"]
    ) -> list[Float[Tensor, "b c_l d_l h_l w_l"]]:
        time, view = time[..., None, None, None], view[..., None, None, None]
        levels = [self.conv_in(x)]
        for down, block in zip(self.downs, self.blocks, strict=True):
            levels.append(block(down(levels[-1], time, view), time, view))
        for level, up in zip(reversed(range(len(self.ups))), self.ups, strict=True):
            levels[level] = levels[level] + up(levels[level + 1], time, view)
        return levels


class SpatialVolume(nn.Module):
    """From the noisy latents of all views to the feature frustums of some of them."""

    def __init__(
        self,
        *,
        target_encoder: TargetViewEncoder,
        spatial_net: SpatialNet,
        frustum_net: FrustumNet,
        resolution: int = 32,
        half_extent: float = 0.5,
        num_depths: int = 48,
        radius: float = UNIT_CUBE_RADIUS,
    ) -> None:
        super().__init__()
        if (out := spatial_net.conv_in.out_channels) != (into := frustum_net.conv_in.in_channels):
            raise BadConfig(f"frustum_net.in_channels={into}: expected spatial_net.channels[0], which is {out}")
        self.target_encoder = target_encoder
        self.spatial_net = spatial_net
        self.frustum_net = frustum_net
        self.resolution = resolution
        self.half_extent = half_extent
        self.num_depths = num_depths
        self.radius = radius

    def check_views(self, num_views: int) -> None:
        """BadConfig unless the spatial network reads the features of exactly so many views."""
        per_view = self.target_encoder.conv_out[-1].out_channels
        if (found := self.spatial_net.conv_in.in_channels) != num_views * per_view:
            raise BadConfig(
                f"spatial_net.in_channels={found}: expected {num_views * per_view}, num_views={num_views} times "
                f"target_encoder.out_channels={per_view}; change one of the three"
            )

    def unproject_views(
        self, x: Float[Tensor, "b v c h w"], time: Float[Tensor, "b t"], view: Float[Tensor, "b v e"], cameras: Cameras
    ) -> Float[Tensor, "b vc z y x"]:
        """Every voxel reads every view's features where it is seen: views stand one after another on the channels.

        Nothing is hidden and nothing is averaged; a voxel outside a view reads zeros there.
        """
        batch, num_views, _, size, _ = x.shape
        time = time[:, None].expand(-1, num_views, -1)
        features = self.target_encoder(*(rearrange(each, "b v ... -> (b v) ...") for each in (x, time, view)))
        vertices = voxel_vertices(self.resolution, self.half_extent, like=cameras.poses)
        grid = warp_coordinates(vertices, cameras, size).to(features.dtype)
        grid = rearrange(grid, "v z y x c -> v z (y x) c").repeat(batch, 1, 1, 1)
        sampled = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return rearrange(sampled, "(b v) c z (y x) -> b (v c) z y x", b=batch, y=self.resolution)

    def build(
        self, x: Float[Tensor, "b v c h w"], time: Float[Tensor, "b t"], view: Float[Tensor, "b v e"], cameras: Cameras
    ) -> Float[Tensor, "b c0 z y x"]:
        """The spatial volume all views share."""
        return self.spatial_net(self.unproject_views(x, time, view, cameras), time)

    def sample_frustums(
        self, volume: Float[Tensor, "b c z y x"], cameras: Cameras, indices: Int[Tensor, "b k"], map_size: int
    ) -> Float[Tensor, "bk c d h w"]:
        """The volume, resampled along the rays of each sample's views `indices`; zeros outside the volume."""
        points, _ = frustum_points(cameras, map_size, self.num_depths, *depth_range(cameras, self.radius))
        grid = (points / self.half_extent).to(volume.dtype)[indices.flatten()]
        volume = volume.repeat_interleave(indices.shape[1], dim=0)
        return F.grid_sample(volume, grid, mode="bilinear", padding_mode="zeros", align_corners=True)

    def frustums(
        self,
        volume: Float[Tensor, "b c z y x"],
        time: Float[Tensor, "b t"],
        view: Float[Tensor, "b v e"],
        cameras: Cameras,
        indices: Int[Tensor, "b k"],
        map_size: int,
    ) -> list[Float[Tensor, "bk c_l d_l h_l w_l"]]:
        """Feature frustums of each sample's views `indices`, sample-major, one per UNet level, finest first."""
        view = torch.take_along_dim(view, indices[..., None], dim=1)
        time = time[:, None].expand(-1, indices.shape[1], -1)
        samples = self.sample_frustums(volume, cameras, indices, map_size)
        return self.frustum_net(samples, rearrange(time, "b k t -> (b k) t"), rearrange(view, "b k e -> (b k) e"))
