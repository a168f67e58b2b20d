"""The volume and its networks, driven by the fixtures `volume_nets` and `spatial_volume`."""

import torch
from einops import rearrange

from core.checkpoints.rename import NameTable
from projects.syncdreamer import checkpoint
from projects.syncdreamer.geometry import depth_range, frustum_points
from projects.syncdreamer.volume import FrustumNet, SpatialNet, TargetViewEncoder
from tests.golden_fixture import load, named, views_of
from tests.projects.syncdreamer.golden.common import build_volume, cameras_from, close, embedded_views, exact, fill


def test_volume_networks():
    info, data = load("syncdreamer", "volume_nets")
    kwargs, prefix = info["kwargs"], info["key_prefix"]
    encoder, spatial, frustum = (kwargs[n] for n in ("NoisyTargetViewEncoder", "SpatialTime3DNet", "FrustumTV3DNet"))
    net = TargetViewEncoder(
        channels=encoder["run_dim"], out_channels=encoder["output_dim"], time_dim=encoder["time_embed_dim"],
        view_dim=encoder["viewpoint_dim"],
    )  # fmt: skip
    strip = lambda pairs: NameTable([(a, b.removeprefix("x.")) for a, b in pairs])  # noqa: E731
    fill(net, strip(checkpoint.target_encoder_pairs(prefix["NoisyTargetViewEncoder"].rstrip("."), "x")))
    with torch.no_grad():
        close(net(data["x"], data["t_embed"], data["v_embed"]), data["target_encoder_out"])

    net = SpatialNet(in_channels=spatial["input_dim"], channels=spatial["dims"], time_dim=spatial["time_dim"])
    fill(
        net,
        strip(
            checkpoint.spatial_net_pairs(prefix["SpatialTime3DNet"].rstrip("."), "x", num_levels=len(spatial["dims"]))
        ),
    )
    with torch.no_grad():
        close(net(data["spatial_in"], data["t_embed"]), data["spatial_out"])

    net = FrustumNet(
        in_channels=frustum["in_dim"], channels=frustum["dims"], time_dim=frustum["t_dim"], view_dim=frustum["v_dim"]
    )
    fill(
        net,
        strip(checkpoint.frustum_net_pairs(prefix["FrustumTV3DNet"].rstrip("."), "x", num_levels=len(frustum["dims"]))),
    )
    with torch.no_grad():
        levels = net(data["frustum_in"], data["t_embed"], data["v_embed"])
    for level in levels:
        close(level, data[f"frustum_out_{level.shape[-1]}"])


def test_spatial_volume():
    info, data = load("syncdreamer", "spatial_volume")
    kwargs = info["kwargs"]
    volume = build_volume(kwargs)
    prefix = info["key_prefix"].rstrip(".")
    table = NameTable([(a, b.removeprefix("x.")) for a, b in checkpoint.volume_pairs(prefix, "x")])
    fill(volume, table, exceptions=set(info["exceptions"]))
    cameras = cameras_from(data["poses"], data["Ks"], kwargs["input_image_size"])
    x, time, view, index = data["x"], data["t_embed"], data["v_embed"], data["target_index"]
    size = data["frustum_in_first"].shape[-1]
    with torch.no_grad():
        lifted = volume.unproject_views(x, time, view, cameras)
        lifted = rearrange(lifted, "b (v c) z y x -> b v c z y x", v=x.shape[1])
        names = [name for name in data if name.startswith("unprojected_views")]
        assert names
        for name in names:
            count = data[name].shape[1] // lifted.shape[2]
            shown = views_of(name, info["tensors"][name]["meaning"], count, x.shape[1])
            found = rearrange(lifted[: len(data[name]), shown], "b v c z y x -> b (v c) z y x")
            close(found, data[name])
        built = volume.build(x, time, view, cameras)
        close(built, data["spatial_volume"])
        sampled = volume.sample_frustums(built, cameras, index, size)
        close(sampled[: len(data["frustum_in_first"])], data["frustum_in_first"])
        levels = volume.frustums(built, time, view, cameras, index, size)
    expected = list(named(data, "frustum_").values())[::-1]
    for level, theirs in zip(levels, expected, strict=True):
        close(level, theirs)


def test_frustum_depths_of_the_spatial_volume():
    info, data = load("syncdreamer", "spatial_volume")
    volume = build_volume(info["kwargs"])
    cameras = cameras_from(data["poses"], data["Ks"], info["kwargs"]["input_image_size"])
    expected = data["frustum_depth"]
    _, depths = frustum_points(cameras, expected.shape[-1], volume.num_depths, *depth_range(cameras, volume.radius))
    depths = depths[data["target_index"].flatten()[: len(expected)]]
    exact(depths[:, None, :, None, None].expand_as(expected), expected)


def test_view_embedding_of_the_spatial_volume():
    _, data = load("syncdreamer", "spatial_volume")
    cameras = cameras_from(data["poses"], data["Ks"], 1)
    azimuths = torch.atan2(cameras.centers[:, 1], cameras.centers[:, 0])
    exact(embedded_views(azimuths, data["elevation"]), data["v_embed"])
