"""SyncDreamer equals the official code: every fixture of `golden/syncdreamer` that concerns the model and its sampler.

Weights come from official names by rule W, through the project's own table of names; no number of theirs stands here.
"""

import re

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn
from torch.testing import assert_close

from core.attention.depth import DepthTransformer
from core.cameras.poses import from_world_to_camera, orbit
from core.checkpoints import ldm
from core.checkpoints.rename import NameTable, load_strict
from core.diffusion import samplers
from core.diffusion.samplers import DDIMSchedule, ddim_step
from core.diffusion.schedules import NoiseSchedule, timestep_embedding
from core.errors import BadRequest
from core.models.unet import walk_unet
from core.training.schedules import warmup_linear
from core.types import Cameras
from projects.syncdreamer import checkpoint
from projects.syncdreamer.geometry import depth_range, frustum_points, voxel_vertices, warp_coordinates
from projects.syncdreamer.model import SyncDreamer
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.volume import FrustumNet, SpatialNet, SpatialVolume, TargetViewEncoder
from tests.golden_fixture import load, named, rule_w, views_of
from tests.projects.syncdreamer import tiny

SCALING_FACTOR = 0.18215  # of Stable Diffusion's latents; the official code has it as a number too


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


# camera


def image_size(data):
    """Of the images that the intrinsics are for: the principal point stands at the middle."""
    return round(data["K"][0, 2].item() * 2)


def test_the_analytic_rig_has_the_published_cameras():
    info, data = load("syncdreamer", "camera")
    poses = orbit(data["azimuths_pkl"].double(), data["elevations_pkl"].double(), data["distances_pkl"].double())
    cameras = Cameras(poses, data["K"].double().expand(len(poses), 3, 3), image_size(data), image_size(data))
    difference = (cameras.world_to_camera[:, :3] - data["poses_pkl"]).abs().max()
    assert difference <= 1e-7 + info["analytic_pose_max_abs_diff"]


def embedded_views(azimuths, elevation):
    """The view embedding, by the real method of a tiny model."""
    model = tiny.denoiser(len(azimuths))
    model.azimuths.copy_(azimuths)
    return model.embed_views(elevation)


def test_view_embedding():
    _, data = load("syncdreamer", "camera")
    exact(embedded_views(data["azimuth_buffer"], data["elev_rad"]), data["view_embedding"])


def test_the_models_azimuths_are_the_published_buffer():
    _, data = load("syncdreamer", "camera")
    num_views = len(data["azimuth_buffer"])
    model = tiny.denoiser(num_views)
    exact(model.azimuths, data["azimuth_buffer"], 1e-6)
    exact(model.world_to_camera, data["poses_pkl"].float(), 1e-6)
    size = image_size(data)
    exact(model.cameras.scaled(size, size).intrinsics, data["K"].expand(num_views, 3, 3))


def test_warp_coordinates():
    info, data = load("syncdreamer", "camera")
    index, size = data["view_idx"], info["warp"]["input_size"]
    cameras = cameras_from(data["poses_pkl"].float()[index], data["K"].expand(len(index), 3, 3), size)
    vertices = voxel_vertices(info["warp"]["V"], info["warp"]["length"], like=cameras.poses)
    exact(warp_coordinates(vertices, cameras, info["warp"]["warp_size"]), data["warp_coords"])


def frustum_case():
    """Cameras of the frustum tensors, and both counts."""
    info, data = load("syncdreamer", "camera")
    index, target = data["view_idx"], info["target"]
    cameras = cameras_from(
        data["poses_pkl"].float()[index], data["K"].expand(len(index), 3, 3), target["input_image_size"]
    )
    return data, cameras, (target["volume_size"], target["depth_size"])


def assert_frustums(found, points, depths):
    exact(rearrange(found[0], "v d h w c -> v c d h w"), points)
    exact(found[1][:, None, :, None, None].expand_as(depths), depths)


def test_frustum_points():
    data, cameras, counts = frustum_case()
    near, far = data["target_depth"][:, 0, 0, 0, 0], data["target_depth"][:, 0, -1, 0, 0]
    assert_frustums(frustum_points(cameras, *counts, near, far), data["target_xyz"], data["target_depth"])
    # The model asks for the depths of a sphere around the origin; the fixture may have others.
    if torch.allclose((near + far) / 2, data["distances_pkl"][data["view_idx"]].to(near), atol=1e-6):
        exact(torch.stack(depth_range(cameras, (far - near)[0].item() / 2)), torch.stack([near, far]))


def test_depths_of_the_unit_sphere():
    data, cameras, counts = frustum_case()
    num_views = len(data["poses_pkl"])
    rig = cameras_from(data["poses_pkl"].float(), data["K"].expand(num_views, 3, 3), image_size(data))
    near, far = depth_range(rig, 1.0)
    exact(near[:, None], data["near_unit"])
    exact(far[:, None], data["far_unit"])
    # Without near and far the official code takes the unit sphere's; the model never does.
    found = frustum_points(cameras, *counts, *depth_range(cameras, 1.0))
    assert_frustums(found, data["target_xyz_auto"], data["target_depth_auto"])


# schedule


def test_noise_schedule_buffers():
    _, data = load("syncdreamer", "schedule")
    schedule = NoiseSchedule()
    for name, buffer in schedule.named_buffers():
        exact(buffer, data[name], 1e-6)


def test_adding_noise():
    _, data = load("syncdreamer", "schedule")
    exact(NoiseSchedule().add_noise(data["x0"], data["noise"], data["t"]), data["x_noisy"])


def follow_timesteps(monkeypatch, timesteps, count):
    """Let the sampler take the official timesteps also where it refuses their count: upstream makes 31 steps of 30."""
    if len(timesteps) == count:
        assert samplers.uniform_timesteps(count).tolist() == timesteps.tolist()
        return
    with pytest.raises(BadRequest):
        samplers.uniform_timesteps(count)
    monkeypatch.setattr(samplers, "uniform_timesteps", lambda *_: timesteps)


def test_ddim_tables():
    info, data = load("syncdreamer", "schedule")
    eta = info.get("eta", float(re.findall(r"eta=(\d+(?:\.\d+)?)", info["upstream"] + " eta=1")[0]))
    counts = [int(count) for count in re.findall(r"\bddim(\d+)_timesteps\b", " ".join(data))]
    assert counts
    for count in counts:
        with pytest.MonkeyPatch.context() as monkeypatch:
            follow_timesteps(monkeypatch, data[f"ddim{count}_timesteps"], count)
            schedule = DDIMSchedule.uniform(data["alphas_cumprod"], count, eta=eta)
        assert schedule.timesteps.tolist() == data[f"ddim{count}_timesteps"].tolist()
        exact(schedule.alphas, data[f"ddim{count}_alphas"], 1e-6)
        exact(schedule.alphas_prev, data[f"ddim{count}_alphas_prev"], 1e-6)
        exact(schedule.sigmas, data[f"ddim{count}_sigmas"])
        exact((1 - schedule.alphas).sqrt(), data[f"ddim{count}_sqrt_one_minus_alphas"], 1e-6)


def test_timestep_embedding():
    _, data = load("syncdreamer", "schedule")
    t = data["temb_t"]
    embeddings = named(data, "temb_")
    assert embeddings
    for dim, expected in embeddings.items():
        found = timestep_embedding(t, dim)
        # One rounding of f, which differs between processors, turns the angle t f by up to t f / 2^23.
        angles = t[:, None].double() * 10000.0 ** -(torch.arange(dim // 2) / (dim // 2)).double()
        tolerance = (1e-5 + angles / 2**23).repeat(1, 2)
        assert found.shape == expected.shape
        assert ((found - expected).abs() <= tolerance).all(), f"{dim}: {(found - expected).abs().max()}"


def official_factor(lr, step):
    """Our schedule of one cycle, for the cycle that a step lies in."""
    cycle = 0
    while step > lr["cycle_lengths"][cycle]:
        step, cycle = step - lr["cycle_lengths"][cycle], cycle + 1
    values = {name: each[cycle] for name, each in lr.items()}
    return warmup_linear(
        step,
        steps=values["warm_up_steps"],
        max_steps=values["cycle_lengths"],
        start=values["f_start"],
        peak=values["f_max"],
        final=values["f_min"],
    )


def test_learning_rate_factor():
    info, data = load("syncdreamer", "schedule")
    found = [official_factor(info["lr"], step) for step in data["lr_steps"].tolist()]
    exact(torch.tensor(found, dtype=data["lr_factor"].dtype), data["lr_factor"], 1e-6)


def test_one_ddim_step_is_that_of_diffusers():
    _, data = load("syncdreamer", "schedule")
    schedule = DDIMSchedule.uniform(data["alphas_cumprod"], 50, eta=1.0)
    theirs = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    theirs.set_timesteps(50)
    x, eps, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for i in (0, 7, 49):
        ours, _ = ddim_step(x, eps, schedule.alphas[i], schedule.alphas_prev[i], schedule.sigmas[i], noise)
        expected = theirs.step(eps, schedule.timesteps[i], x, eta=1.0, variance_noise=noise).prev_sample
        close(ours, expected, 1e-5)


# networks


@pytest.mark.parametrize("folded", [False, True], ids=["plain", "folded"])
def test_depth_transformer(folded):
    info, data = load("syncdreamer", "depth_transformer")
    kwargs = info["kwargs"]
    block = DepthTransformer(
        channels=kwargs["dim"],
        context_channels=kwargs["context_dim"],
        num_heads=kwargs["n_heads"],
        head_dim=kwargs["d_head"],
        folded=folded,
    )
    prefix = info["key_prefix"].rstrip(".")
    fill(block, NameTable([(a, b.removeprefix("x.")) for a, b in checkpoint.depth_pairs(prefix, "x")]))
    with torch.no_grad():
        projected, context = block.proj_in(data["x"]), block.proj_context(data["context"])
        close(projected, data["proj_in"], 1e-5)
        close(context, data["proj_context"], 1e-5)
        close(block.attend(projected, context), data["depth_attn"], 1e-5)
        close(block(data["x"], data["context"]), data["out"], 1e-5)
        close(block(data["x"], torch.zeros_like(data["context"])), data["out_zero_context"], 1e-5)
        close(data["x"] + block.empty_residual(data["x"]), data["out_zero_context"], 1e-5)


@pytest.fixture(scope="module")
def golden_unet():
    """The fixture, the UNet with its depth attention, and the volumes, finest first."""
    info, data = load("syncdreamer", "unet")
    model = build_denoiser(info["kwargs"], tiny.volume())
    table = checkpoint.denoiser_table(**unet_layout(info["kwargs"]), ours="")
    table = NameTable([(a, b) for a, b in table.pairs if a.startswith(info["key_prefix"])])
    network = {name: part for name, part in model.named_children() if name in ("unet", "depth_middle", "depth_up")}
    network = fill(nn.ModuleDict(network), table, exceptions=set(info["exceptions"]))
    assert sum(p.numel() for p in network.parameters()) == info["n_params"]
    return data, model, list(named(data, "volume_").values())[::-1]


def test_unet_with_depth_attention(golden_unet):
    data, model, volumes = golden_unet
    noisy = data["out"].shape[1]
    with torch.no_grad():
        out = model.predict(data["x"][:, :noisy], data["t"], data["context"], data["x"][:, noisy:], volumes)
    close(out, data["out"])


def encoder_layers(unet: UNet2DConditionModel) -> list[nn.Module]:
    """The modules that end the official input_blocks, in their order."""
    layers: list[nn.Module] = [unet.conv_in]
    for block in unet.down_blocks:
        layers += getattr(block, "attentions", block.resnets)
        layers += block.downsamplers or ()
    return layers


def activations(model: SyncDreamer, data, volumes) -> dict[str, Tensor]:
    """What the UNet computes midway, under the fixture's names."""
    seen = {}

    def see(name: str, value: Tensor) -> Tensor:
        seen[f"h.{name}"] = value
        return value

    def middle(x: Tensor) -> Tensor:
        see("middle_block", x)
        return see("middle_conditions", model.depth_middle(x, volumes[-1]))

    def layer(x: Tensor, number: int) -> Tensor:
        see(f"output_blocks.{number}", x)
        site = number - model.sites[0][0]
        if site < 0:
            return x
        return see(f"output_conditions.{site}", model.depth_up[site](x, volumes[model.sites[site][2]]))

    def encoded(number: int, output: Tensor | tuple[Tensor]) -> None:
        see(f"input_blocks.{number}", output[0] if isinstance(output, tuple) else output)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, i=i: encoded(i, output))
        for i, module in enumerate(encoder_layers(model.unet))
    ]
    with torch.no_grad():
        walk_unet(model.unet, data["x"], data["t"], data["context"], after_middle=middle, after_up_layer=layer)
    for hook in hooks:
        hook.remove()
    return seen


def test_unet_intermediates(golden_unet):
    data, model, volumes = golden_unet
    seen = activations(model, data, volumes)
    names = [name for name in data if name.startswith("h.")]
    assert names
    for name in names:
        close(seen[name], data[name])


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


# the whole system


def poses_of(data):
    """The system's poses: its own, or those views of the camera fixture that stand at its azimuths."""
    if "poses" in data:
        return data["poses"]
    _, rig = load("syncdreamer", "camera")
    difference = (data["azimuth"][:, None] - rig["azimuth_buffer"]).abs()
    assert difference.amin(dim=1).max() < 1e-5, "the camera fixture has no view at one of the system's azimuths"
    return rig["poses_pkl"].float()[difference.argmin(dim=1)]


@pytest.fixture(scope="module")
def golden_system():
    info, data = load("syncdreamer", "system")
    kwargs = info["kwargs"]
    volume = kwargs["spatial_volume"]
    denoiser = build_denoiser(
        kwargs["unet"],
        build_volume(volume),
        num_views=kwargs["view_num"],
        image_size=volume.get("input_image_size", kwargs["image_size"]),
        **given(volume, time_dim="time_dim", view_dim="view_dim"),
    )
    table = checkpoint.denoiser_table(**unet_layout(kwargs["unet"]), ours="")
    denoiser.world_to_camera.copy_(poses_of(data))
    denoiser.intrinsics.copy_(data["Ks"])
    denoiser.azimuths.copy_(data["azimuth"])
    fill(denoiser, table, exceptions=set(info["exceptions"]))
    return info, data, denoiser, table


@pytest.fixture(scope="module")
def condition(golden_system):
    """What the system makes of the given embedding and scaled latents: the UNet concatenates unscaled ones."""
    info, data, denoiser, _ = golden_system
    return system_of(denoiser, info["kwargs"]).condition(data["clip_embed"], data["x_input"], data["elevation"])


def system_of(denoiser, kwargs):
    return SyncDreamerSystem(
        denoiser=denoiser,
        latents=tiny.latents(SCALING_FACTOR),
        image_encoder=tiny.image_encoder(),
        **given(kwargs, **{name: name for name in ("drop_conditions", "finetune_unet", "finetune_projection")}),
    )


def views_shown(info, name, tensor, batch):
    """The views of a tensor [(b k), ...], by its name."""
    return views_of(name, info["tensors"][name]["meaning"], len(tensor) // batch, info["kwargs"]["view_num"])


def test_training_loss_and_gradients(golden_system, condition):
    info, data, denoiser, table = golden_system
    system = system_of(denoiser, info["kwargs"])
    denoiser.requires_grad_(True)  # the official code computes gradients of what it freezes, too
    denoiser.zero_grad()
    loss = system.noise_loss(data["x0"], condition, data["train_t"], data["noise"], data["train_target_index"])
    close(loss, data["train_loss"])
    close(loss, torch.tensor(info["train_loss"]))
    loss.backward()
    norms = {name: p.grad.norm() for name, p in denoiser.named_parameters() if p.grad is not None}
    official = table.write(norms)
    for name, expected in info["grad_norms"].items():
        assert official[name].item() == pytest.approx(expected, rel=1e-3, abs=1e-7), name
    denoiser.zero_grad(set_to_none=True)


def test_training_prediction(golden_system, condition):
    _, data, denoiser, _ = golden_system
    x_t = denoiser.schedule.add_noise(data["x0"], data["noise"], data["train_t"])
    with torch.no_grad():
        found = denoiser.predict_views(x_t, data["train_t"], condition, data["train_target_index"])
    close(rearrange(found, "b k c h w -> (b k) c h w"), data["train_pred"])


def test_optimizer_groups(golden_system):
    info, _, denoiser, table = golden_system
    names = {id(p): name for name, p in denoiser.named_parameters()}
    for switches, expected in info["optimizer_groups"].items():
        flags = {key: value == "True" for key, value in (pair.split("=") for pair in switches.split(","))}
        lr = min(group["initial_lr"] for group in expected)
        groups = denoiser.parameter_groups(lr, **flags)
        optimizer = torch.optim.AdamW(groups, lr=lr)
        assert len(groups) == len(expected)
        for group, want in zip(optimizer.param_groups, expected, strict=True):
            official = table.write({names[id(p)]: p for p in group["params"]})
            assert group["lr"] == pytest.approx(want["initial_lr"])
            assert len(group["params"]) == want["n_tensors"]
            assert sum(p.numel() for p in group["params"]) == want["n_params"]
            assert {want["first_key"], want["last_key"]} <= set(official)
            for name in ("weight_decay", "eps"):
                assert group[name] == want[name]
            assert list(group["betas"]) == want["betas"]


def test_time_and_view_conditions(golden_system):
    info, data, denoiser, _ = golden_system
    batch = len(data["elevation"])
    names = [name for name in data if name.startswith("cc_projection_views")]
    assert names
    with torch.no_grad():
        exact(denoiser.embed_views(data["elevation"]), data["v_embed"])
        close(denoiser.embed_time(data["ddim_timesteps"][-1:].expand(batch)), data["t_embed_first"])
        for name in names:
            views = views_shown(info, name, data[name], batch)
            close(denoiser.project_context(data["clip_embed"], data["v_embed"][:, views]), data[name])


@pytest.mark.parametrize("kind", ["cond", "cfg"])
def test_first_step_prediction(golden_system, condition, kind):
    info, data, denoiser, _ = golden_system
    settings = info["sampler"]
    batch = len(data["x_T"])
    names = [name for name in data if name.startswith(f"noise_{kind}_views")]
    assert names
    with torch.no_grad():
        noise = denoiser.denoise(
            data["x_T"],
            data["ddim_timesteps"][-1:].expand(batch),
            condition,
            guidance_scale=1.0 if kind == "cond" else settings["unconditional_scale"],
            views_per_batch=settings["batch_view_num"],
        )
    for name in names:
        views = views_shown(info, name, data[name], batch)
        close(rearrange(noise[:, views], "b k c h w -> (b k) c h w"), data[name])


def test_full_sampling_loop(golden_system, condition, monkeypatch):
    info, data, denoiser, _ = golden_system
    settings = info["sampler"]
    follow_timesteps(monkeypatch, data["ddim_timesteps"], settings["ddim_num_steps"])
    noises = iter([data["x_T"], *named(data, "step_noise_").values()])
    seen = []
    result = sample(
        denoiser,
        condition,
        lambda shape: next(noises),
        num_steps=len(data["ddim_timesteps"]),
        guidance_scale=settings["unconditional_scale"],
        eta=settings["eta"],
        views_per_batch=settings["batch_view_num"],
        on_step=lambda number, x, x_0: seen.append(x),
    )
    assert next(noises, None) is None, "the official loop drew more noise"
    for number, expected in {**named(data, "x_after_step"), **named(data, "x_inter_")}.items():
        close(seen[number], expected)
    close(result, data["x_final"])
