"""What the parity tests share: tolerances, weights by rule W, modules of the fixtures' sizes."""

import pytest
from diffusers import UNet2DConditionModel
from torch.testing import assert_close

from core.cameras.poses import from_world_to_camera
from core.checkpoints import ldm
from core.checkpoints.rename import NameTable, load_strict
from core.diffusion import samplers
from core.errors import BadRequest
from core.types import Cameras
from projects.syncdreamer.model import SyncDreamer
from projects.syncdreamer.volume import FrustumNet, SpatialNet, SpatialVolume, TargetViewEncoder
from tests.golden_fixture import rule_w
from tests.projects.syncdreamer import tiny


def close(actual, expected, tolerance=1e-4):
    """Networks agree relative to the output's maximum (`golden/README.md`)."""
    assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def exact(actual, expected, tolerance=1e-5):
    """Small deterministic parts agree to 1e-5, numbers far above 1 to a few units in their last place."""
    assert_close(actual, expected, rtol=1e-6, atol=tolerance)


def fill(module, table: NameTable, exceptions=()):
    """Fill a module with rule-W weights under their official names, read back through the table."""
    official = rule_w(table.write(module.state_dict()), exceptions)
    load_strict(module, table.read(official), what="a golden fixture")
    return module.eval()


def given(kwargs, **names):
    """Those of our arguments whose official name is in `kwargs`; the others keep our defaults, which are theirs."""
    return {ours: kwargs[theirs] for ours, theirs in names.items() if theirs in kwargs}


def build_unet(kwargs):
    names = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions",
             "channel_mult", "context_dim", "num_heads", "num_head_channels", "transformer_depth",
             "use_linear_in_transformer")  # fmt: skip
    return UNet2DConditionModel(**ldm.unet_arguments(**given(kwargs, **{name: name for name in names})))


def build_volume(kwargs):
    widths = kwargs.get("changed_from_upstream", {})
    time, view = given(kwargs, time_dim="time_dim"), given(kwargs, view_dim="view_dim")
    encoder = TargetViewEncoder(**given(widths, out_channels="target_encoder_output_dim"), **time, **view)
    features = encoder.conv_out[-1].out_channels
    spatial_net = SpatialNet(
        in_channels=features * kwargs["view_num"], **given(widths, channels="spatial_dims"), **time
    )
    frustum_net = FrustumNet(
        in_channels=spatial_net.conv_in.out_channels, **given(widths, channels="frustum_dims"), **time, **view
    )
    assert frustum_net.conv_in.in_channels == widths.get("frustum_in_dim", frustum_net.conv_in.in_channels)
    return SpatialVolume(
        target_encoder=encoder,
        spatial_net=spatial_net,
        frustum_net=frustum_net,
        **given(
            kwargs,
            resolution="spatial_volume_size",
            half_extent="spatial_volume_length",
            num_depths="frustum_volume_depth",
            radius="frustum_volume_length",
        ),
    )


def build_denoiser(unet_kwargs, volume, **options):
    return SyncDreamer(
        unet=build_unet(unet_kwargs), volume=volume, volume_channels=unet_kwargs["volume_dims"], **options
    )


def unet_layout(kwargs):
    levels = len(kwargs["channel_mult"])
    return {
        "num_levels": levels,
        "layers_per_block": kwargs["num_res_blocks"],
        "attention_levels": ldm.attention_levels(kwargs["attention_resolutions"], levels),
    }


def cameras_from(poses, intrinsics, size):
    return Cameras(from_world_to_camera(poses), intrinsics, size, size)


def image_size(data):
    """Of the images that the intrinsics are for: the principal point stands at the middle."""
    return round(data["K"][0, 2].item() * 2)


def embedded_views(azimuths, elevation):
    """The view embedding, by the real method of a tiny model."""
    model = tiny.denoiser(len(azimuths))
    model.azimuths.copy_(azimuths)
    return model.embed_views(elevation)


def follow_timesteps(monkeypatch, timesteps, count):
    """Let the sampler take the official timesteps also where it refuses their count: upstream makes 31 steps of 30."""
    if len(timesteps) == count:
        assert samplers.uniform_timesteps(count).tolist() == timesteps.tolist()
        return
    with pytest.raises(BadRequest):
        samplers.uniform_timesteps(count)
    monkeypatch.setattr(samplers, "uniform_timesteps", lambda *_: timesteps)
