"""SyncDreamer equals the official code: every fixture of `golden/syncdreamer` that concerns the model and its sampler.

Weights come from official names by rule W, through the project's own table of names; no number of theirs stands here.
"""

from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from torch.testing import assert_close

from core.attention.depth import DepthTransformer
from core.cameras.poses import from_world_to_camera, orbit
from core.checkpoints import ldm
from core.checkpoints.rename import NameTable, load_strict
from core.diffusion.samplers import DDIMSchedule, ddim_step
from core.diffusion.schedules import NoiseSchedule, timestep_embedding
from core.models.unet import walk_unet
from core.training.schedules import warmup
from core.types import Cameras
from projects.syncdreamer import checkpoint
from projects.syncdreamer.geometry import depth_range, frustum_points, voxel_vertices, warp_coordinates
from projects.syncdreamer.model import Condition, SyncDreamer
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.volume import FrustumNet, SpatialNet, SpatialVolume, TargetViewEncoder
from tests.golden_fixture import load, rule_w
from tests.projects.syncdreamer import tiny


def close(actual, expected, tolerance=1e-4):
    """Networks agree relative to the output's maximum (`golden/README.md`)."""
    assert_close(actual, expected, rtol=0, atol=tolerance * max(1.0, expected.abs().max().item()))


def fill(module, table: NameTable, exceptions=()):
    """Fill a module with rule-W weights under their official names, read back through the table."""
    official = rule_w(table.write(module.state_dict()), exceptions)
    load_strict(module, table.read(official), what="a golden fixture")
    return module.eval()


def build_unet(kwargs):
    names = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions", "channel_mult",
             "context_dim", "num_heads", "transformer_depth")  # fmt: skip
    return UNet2DConditionModel(**ldm.unet_arguments(**{name: kwargs[name] for name in names}))


def build_volume(kwargs):
    changed = kwargs["changed_from_upstream"]
    time, view = kwargs["time_dim"], kwargs["view_dim"]
    features = changed["target_encoder_output_dim"]
    return SpatialVolume(
        target_encoder=TargetViewEncoder(out_channels=features, time_dim=time, view_dim=view),
        spatial_net=SpatialNet(
            in_channels=features * kwargs["view_num"], channels=changed["spatial_dims"], time_dim=time
        ),
        frustum_net=FrustumNet(
            in_channels=changed["frustum_in_dim"], channels=changed["frustum_dims"], time_dim=time, view_dim=view
        ),
        resolution=kwargs["spatial_volume_size"],
        half_extent=kwargs["spatial_volume_length"],
        num_depths=kwargs["frustum_volume_depth"],
        radius=kwargs["frustum_volume_length"],
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


def test_the_analytic_rig_has_the_published_cameras():
    info, data = load("syncdreamer", "camera")
    poses = orbit(data["azimuths_pkl"].double(), data["elevations_pkl"].double(), data["distances_pkl"])
    cameras = Cameras(poses, data["K"].double().expand(len(poses), 3, 3), 256, 256)
    difference = (cameras.world_to_camera[:, :3] - data["poses_pkl"]).abs().max()
    assert difference <= 1e-7 + info["analytic_pose_max_abs_diff"]


def test_view_embedding():
    _, data = load("syncdreamer", "camera")
    model = tiny.denoiser(len(data["azimuth_buffer"]))
    model.azimuths.copy_(data["azimuth_buffer"])
    close(model.embed_views(data["elev_rad"]), data["view_embedding"], 1e-5)


def test_the_models_azimuths_are_the_published_buffer():
    _, data = load("syncdreamer", "camera")
    num_views = len(data["azimuth_buffer"])
    model = tiny.denoiser(num_views)
    size = round(data["K"][0, 2].item() * 2)
    close(model.azimuths, data["azimuth_buffer"], 1e-6)
    close(model.world_to_camera, data["poses_pkl"].float(), 1e-6)
    close(model.cameras.scaled(size, size).intrinsics, data["K"].expand(num_views, 3, 3), 1e-5)


def test_warp_coordinates():
    info, data = load("syncdreamer", "camera")
    index, size = data["view_idx"], info["warp"]["input_size"]
    cameras = cameras_from(data["poses_pkl"].float()[index], data["K"].expand(len(index), 3, 3), size)
    vertices = voxel_vertices(info["warp"]["V"], info["warp"]["length"], like=cameras.poses)
    close(warp_coordinates(vertices, cameras, info["warp"]["warp_size"]), data["warp_coords"], 1e-5)


def test_frustum_points():
    info, data = load("syncdreamer", "camera")
    target, index = info["target"], data["view_idx"]
    cameras = cameras_from(
        data["poses_pkl"].float()[index], data["K"].expand(len(index), 3, 3), target["input_image_size"]
    )
    depths = data["target_depth"][:, 0, :, 0, 0]
    near, far = depths[:, 0], depths[:, -1]
    points, found = frustum_points(cameras, target["volume_size"], target["depth_size"], near, far)
    close(rearrange(points, "v d h w c -> v c d h w"), data["target_xyz"], 1e-5)
    close(found, depths, 1e-5)
    from_radius = depth_range(cameras, (far - near)[0].item() / 2)
    close(torch.stack(from_radius), torch.stack([near, far]), 1e-5)


# schedule


def test_noise_schedule_buffers():
    _, data = load("syncdreamer", "schedule")
    schedule = NoiseSchedule()
    for name, buffer in schedule.named_buffers():
        close(buffer, data[name], 1e-6)


def test_adding_noise():
    _, data = load("syncdreamer", "schedule")
    close(NoiseSchedule().add_noise(data["x0"], data["noise"], data["t"]), data["x_noisy"], 1e-5)


def test_ddim_tables():
    _, data = load("syncdreamer", "schedule")
    counts = [int(name.removeprefix("ddim").removesuffix("_timesteps")) for name in data if name.endswith("_timesteps")]
    assert counts
    for count in counts:
        schedule = DDIMSchedule.uniform(data["alphas_cumprod"], count, eta=1.0)
        assert schedule.timesteps.tolist() == data[f"ddim{count}_timesteps"].tolist()
        close(schedule.alphas, data[f"ddim{count}_alphas"], 1e-6)
        close(schedule.alphas_prev, data[f"ddim{count}_alphas_prev"], 1e-6)
        close(schedule.sigmas, data[f"ddim{count}_sigmas"], 1e-5)
        close((1 - schedule.alphas).sqrt(), data[f"ddim{count}_sqrt_one_minus_alphas"], 1e-6)


def test_timestep_embedding():
    _, data = load("syncdreamer", "schedule")
    names = [name for name in data if name.startswith("temb_") and name != "temb_t"]
    for name in names:
        # The angle t f reaches 999 radians, where one float32 rounding of f is 6e-5: exp() differs between processors.
        close(timestep_embedding(data["temb_t"], data[name].shape[1]), data[name], 1e-4)


def test_learning_rate_factor():
    info, data = load("syncdreamer", "schedule")
    lr = info["lr"]
    assert lr["f_max"] == lr["f_min"], "only the constant rate after the warm-up is published"
    factor = partial(warmup, steps=lr["warm_up_steps"][0], start=lr["f_start"][0])
    found = torch.tensor([factor(step) for step in data["lr_steps"].tolist()], dtype=torch.float64) * lr["f_max"][0]
    close(found, data["lr_factor"], 1e-6)


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


def test_unet_with_depth_attention():
    info, data = load("syncdreamer", "unet")
    kwargs = info["kwargs"]
    model = build_denoiser(kwargs, tiny.volume())
    table = checkpoint.denoiser_table(**unet_layout(kwargs), ours="")
    table = NameTable([(a, b) for a, b in table.pairs if a.startswith(info["key_prefix"])])
    network = {name: part for name, part in model.named_children() if name in ("unet", "depth_middle", "depth_up")}
    fill(torch.nn.ModuleDict(network), table)
    volumes = [data[f"volume_{data['x'].shape[-1] // 2**level}"] for level in range(len(kwargs["volume_dims"]))]
    latents = data["x"].shape[1] // 2
    with torch.no_grad():
        out = model.predict(data["x"][:, :latents], data["t"], data["context"], data["x"][:, latents:], volumes)
    close(out, data["out"])


def test_unet_intermediates():
    info, data = load("syncdreamer", "unet")
    model = build_denoiser(info["kwargs"], tiny.volume())
    table = checkpoint.denoiser_table(**unet_layout(info["kwargs"]), ours="")
    table = NameTable([(a, b) for a, b in table.pairs if a.startswith(info["key_prefix"])])
    fill(
        torch.nn.ModuleDict({n: p for n, p in model.named_children() if n in ("unet", "depth_middle", "depth_up")}),
        table,
    )
    volumes = [data[f"volume_{data['x'].shape[-1] // 2**level}"] for level in range(len(info["kwargs"]["volume_dims"]))]
    seen = {}

    def middle(x):
        seen["h.middle_block"] = x
        seen["h.middle_conditions"] = model.depth_middle(x, volumes[-1])
        return seen["h.middle_conditions"]

    def layer(x, number):
        site = number - model.sites[0][0]
        if site < 0:
            return x
        seen[f"h.output_conditions.{site}"] = model.depth_up[site](x, volumes[model.sites[site][2]])
        return seen[f"h.output_conditions.{site}"]

    with torch.no_grad():
        walk_unet(model.unet, data["x"], data["t"], data["context"], after_middle=middle, after_up_layer=layer)
    assert len(seen) == 2 + len(model.sites)
    for name, value in seen.items():
        close(value, data[name])


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
    fill(volume, NameTable([(a, b.removeprefix("x.")) for a, b in checkpoint.volume_pairs(prefix, "x")]))
    cameras = cameras_from(data["poses"], data["Ks"], kwargs["input_image_size"])
    x, time, view, index = data["x"], data["t_embed"], data["v_embed"], data["target_index"]
    with torch.no_grad():
        lifted = volume.unproject_views(x, time, view, cameras)
        shown = data["unprojected_views01"].shape[1]
        close(lifted[:1, :shown], data["unprojected_views01"])
        built = volume.build(x, time, view, cameras)
        close(built, data["spatial_volume"])
        close(volume.sample_frustums(built, cameras, index, x.shape[-1])[:1], data["frustum_in_first"])
        levels = volume.frustums(built, time, view, cameras, index, x.shape[-1])
    for level in levels:
        close(level, data[f"frustum_{level.shape[-1]}"])


# the whole system


@pytest.fixture(scope="module")
def golden_system():
    info, data = load("syncdreamer", "system")
    kwargs = info["kwargs"]
    volume = kwargs["spatial_volume"]
    denoiser = build_denoiser(
        kwargs["unet"],
        build_volume(volume),
        num_views=kwargs["view_num"],
        image_size=kwargs["image_size"],
        time_dim=volume["time_dim"],
        view_dim=volume["view_dim"],
    )
    table = checkpoint.denoiser_table(**unet_layout(kwargs["unet"]), ours="")
    denoiser.world_to_camera.copy_(load("syncdreamer", "camera")[1]["poses_pkl"].float())
    denoiser.intrinsics.copy_(data["Ks"])
    denoiser.azimuths.copy_(data["azimuth"])
    fill(denoiser, table, exceptions=set(info["exceptions"]))
    return info, data, denoiser, table


def condition_of(data):
    return Condition(data["clip_embed"], data["x_input"] / 0.18215, data["elevation"])


def system_of(denoiser, kwargs):
    return SyncDreamerSystem(
        denoiser=denoiser,
        latents=tiny.latents(),
        image_encoder=tiny.image_encoder(),
        drop_conditions=kwargs["drop_conditions"],
        finetune_unet=kwargs["finetune_unet"],
        finetune_projection=kwargs["finetune_projection"],
    )


def test_training_loss_and_gradients(golden_system):
    info, data, denoiser, table = golden_system
    system = system_of(denoiser, info["kwargs"])
    denoiser.zero_grad()
    loss = system.noise_loss(data["x0"], condition_of(data), data["train_t"], data["noise"], data["train_target_index"])
    close(loss, data["train_loss"])
    loss.backward()
    norms = {name: p.grad.norm() for name, p in denoiser.named_parameters() if p.grad is not None}
    official = table.write(norms)
    for name, expected in info["grad_norms"].items():
        assert official[name].item() == pytest.approx(expected, rel=1e-3, abs=1e-7), name
    denoiser.zero_grad(set_to_none=True)


def test_training_prediction(golden_system):
    _, data, denoiser, _ = golden_system
    x_t = denoiser.schedule.add_noise(data["x0"], data["noise"], data["train_t"])
    with torch.no_grad():
        found = denoiser.predict_views(x_t, data["train_t"], condition_of(data), data["train_target_index"])
    close(found[:, 0], data["train_pred"])


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
    _, data, denoiser, _ = golden_system
    with torch.no_grad():
        close(denoiser.embed_views(data["elevation"]), data["v_embed"], 1e-5)
        t = data["ddim_timesteps"][-1:].expand(len(data["elevation"]))
        close(denoiser.embed_time(t), data["t_embed_first"], 1e-5)
        close(denoiser.project_context(data["clip_embed"], data["v_embed"][:, 1:3]), data["cc_projection_views12"])


@pytest.mark.parametrize("scale", ["noise_cond_views12", "noise_cfg_views12"])
def test_first_step_prediction(golden_system, scale):
    info, data, denoiser, _ = golden_system
    guidance = 1.0 if "cond" in scale else info["sampler"]["unconditional_scale"]
    t = data["ddim_timesteps"][-1:].expand(len(data["x_T"]))
    with torch.no_grad():
        noise = denoiser.denoise(data["x_T"], t, condition_of(data), guidance_scale=guidance, views_per_batch=4)
    close(rearrange(noise[:, 1:3], "b k c h w -> (b k) c h w"), data[scale])


def test_full_sampling_loop(golden_system):
    info, data, denoiser, _ = golden_system
    settings = info["sampler"]
    steps = sorted(name for name in data if name.startswith("step_noise_"))
    noises = iter([data["x_T"], *(data[name] for name in steps)])
    seen = []
    result = sample(
        denoiser,
        condition_of(data),
        lambda shape: next(noises),
        num_steps=settings["ddim_num_steps"],
        guidance_scale=settings["unconditional_scale"],
        eta=settings["eta"],
        views_per_batch=settings["batch_view_num"],
        on_step=lambda number, x, x_0: seen.append(x),
    )
    close(seen[0], data["x_after_step0"])
    for name in (name for name in data if name.startswith("x_inter_")):
        close(seen[int(name.removeprefix("x_inter_"))], data[name])
    close(result, data["x_final"])
