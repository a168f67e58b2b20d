"""Zero-1-to-3 equals the official code: the UNet, what joins image and pose, the conditions, the training step, names.

Weights are rule W's, in a file as upstream writes it, read by the project's own reader of such files.
"""

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from core.cameras.poses import from_world_to_camera
from core.checkpoints.rename import without
from core.config import instantiate
from core.settings import composed, settings
from projects.viewfusion import checkpoint, train
from projects.viewfusion.data import official_pixels
from projects.viewfusion.poses import from_poses, relative
from projects.viewfusion.system import keep_masks
from tests.golden_fixture import load
from tests.projects.viewfusion.golden.common import build_system, close, golden_system, official_state


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A fixture's json and tensors, and its system with plain weights (or averaged ones); each is made once."""
    folder = tmp_path_factory.mktemp("official")
    made = {}

    def of(name, *, ema=False):
        info, data = load("viewfusion", name)
        key = (str(info["config"]), ema)
        if key not in made:
            made[key] = golden_system(info, folder, ema=ema)
        return info, data, made[key]

    return of


def test_the_unet_predicts_the_official_noise(golden):
    _, data, system = golden("zero123_unet")
    zero = torch.zeros_like
    with torch.no_grad():
        eps = system.denoiser.predict(data["x"], data["timesteps"], data["context"], data["c_concat"])
        null = system.denoiser.predict(data["x"], data["timesteps"], zero(data["context"]), zero(data["c_concat"]))
    close(eps, data["eps"])
    close(null, data["eps_uncond"])


def test_the_unets_intermediates_are_the_official_ones(golden):
    _, data, system = golden("zero123_unet")
    unet, seen = system.denoiser.unet, {}
    first = getattr(unet.down_blocks[0], "attentions", unet.down_blocks[0].resnets)[0]
    deepest = getattr(unet.up_blocks[0], "attentions", unet.up_blocks[0].resnets)[0]
    parts = {
        "emb": unet.time_embedding,
        "h_input0": unet.conv_in,
        "h_input1": first,
        "h_middle": unet.mid_block.resnets[-1],
        "h_output0": deepest,
    }
    assert {name for name in data if name.startswith(("emb", "h_"))} == set(parts)

    def keep(name):
        return lambda _, inputs, output: seen.update({name: output[0] if isinstance(output, tuple) else output})

    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    with torch.no_grad():
        system.denoiser.predict(data["x"], data["timesteps"], data["context"], data["c_concat"])
    for hook in hooks:
        hook.remove()
    for name in parts:
        close(seen[name], data[name])


def test_relative_poses_and_the_token_are_the_official_ones(golden):
    _, data, system = golden("zero123_pose_ccproj")
    spherical = []
    for name in ("target_RT", "cond_RT"):
        # The official matrices have OpenGL axes; centres, which are all that counts, are the same.
        poses = from_world_to_camera(data[name])
        poses[:, :3, 1:3] *= -1
        spherical.append(from_poses(poses, where=name))
    target, condition = spherical
    found = relative(target, condition)
    assert_close(found.float(), data["T"], rtol=0, atol=2e-5)
    with torch.no_grad():
        close(system.denoiser.project(data["clip_emb"], found.float()), data["context"])


@torch.no_grad()
def test_an_image_becomes_the_official_conditions(golden):
    _, data, system = golden("zero123_cond")
    shrunk = system.image_encoder.preprocess(data["image"])
    stride = shrunk.shape[-1] // data["clip_preproc_slice"].shape[-1]
    assert_close(shrunk[..., ::stride, ::stride], data["clip_preproc_slice"], rtol=0, atol=1e-5)
    close(system.image_encoder(data["image"]), data["clip_emb"])
    moments = system.latents.moments(data["image"])
    close(moments, data["vae_moments"])
    close(system.unscaled(moments), data["vae_mode"])
    close(system.latents.decode(data["z"]), data["decoded"])


def test_a_training_step_has_the_official_loss_and_gradients(golden, monkeypatch):
    info, data, system = golden("zero123_train_step")
    targets, inputs = (rearrange(data[name], "b h w c -> b c h w") for name in ("image_target", "image_cond"))
    batch = {"target_pixels": targets, "input_pixels": inputs, "pose": data["T"]}
    moments, *_ = system.encode(batch)
    x_0 = system.latents.sample(moments, data["vae_noise"])
    close(x_0, data["z_target"])
    keep_token, keep_latents = keep_masks(data["u"])
    assert 0 < keep_token.sum() < len(keep_token) and 0 < keep_latents.sum() < len(keep_latents)
    # The loss of the program itself, with the fixture's draws in the order of its own.
    drawn = {"rand": [data["u"]], "randn": [data["noise"]]}
    for name, values in drawn.items():
        monkeypatch.setattr(torch, name, lambda *_, values=values, **__: values.pop())
    monkeypatch.setattr(system.denoiser.schedule, "draw_timesteps", lambda *_, **__: data["t"])
    monkeypatch.setattr(system.latents, "sample", lambda *_: x_0)
    seen = []
    monkeypatch.setattr(system, "noise_loss", lambda *given, loss=system.noise_loss: seen.append(given) or loss(*given))
    system.zero_grad()
    found = system.loss(batch, torch.Generator())
    assert not any(drawn.values())
    close(seen[0][3], data["context"])
    close(seen[0][4], data["c_concat"])
    close(found["loss"], data["loss"])
    close(found["loss_vlb"], data["loss_vlb"])
    found["loss"].backward()
    denoiser = system.denoiser
    close(denoiser.pose_projection.bias.grad, data["grad_cc_bias"], 1e-3)
    close(denoiser.unet.conv_out.bias.grad, data["grad_out_bias"], 1e-3)
    close(denoiser.unet.conv_in.weight.grad, data["grad_in0_w"], 1e-3)
    assert len(list(denoiser.parameters())) == info["n_params_with_grad"]
    system.zero_grad(set_to_none=True)


def test_a_rendering_is_whitened_cut_and_resized_as_officially():
    _, data = load("viewfusion", "gso_pose")
    rgba = rearrange(data["rgba"], "h w c -> c h w").float() / 255
    found = ((official_pixels(rgba, data["cond_u8"].shape[-1]) + 1) * 127.5).round()
    assert torch.equal(found, data["cond_u8"].float())


def test_the_average_is_what_a_published_file_gives_unless_the_plain_weights_are_asked_for(golden):
    info, _, plain = golden("zero123_unet")
    _, _, averaged = golden("zero123_unet", ema=True)
    official = official_state(info, build_system(info))
    for system, prefix, join in ((plain, "model.", "."), (averaged, "model_ema.", "")):
        written = checkpoint.official_table(system).write(without(system.state_dict(), {checkpoint.ALPHAS: ""}))
        unet = {name: value for name, value in written.items() if name.startswith("model.diffusion_model.")}
        assert unet
        for name, value in unet.items():
            assert torch.equal(value, official[prefix + name.removeprefix("model.").replace(".", join)]), name
        for name in ("cc_projection.weight", "first_stage_model.quant_conv.weight"):
            assert torch.equal(written[name], official[name])


@pytest.fixture(scope="module")
def full_size():
    program = train.main.program
    cfg = settings(program, composed(program, ["+experiment=viewfusion/paper", "model.start=null"]))
    with torch.device("meta"):
        return cfg, instantiate(cfg.model, lr=cfg.optimizer.lr)


def test_the_published_names_and_shapes_are_those_of_the_full_size_model(full_size):
    _, system = full_size
    listed, _ = load("viewfusion", "zero123-xl.keys")
    official = {name: torch.empty(shape, device="meta") for name, shape in listed.items()}
    table = checkpoint.official_table(system)
    ours = {name: value for name, value in system.state_dict().items() if name != checkpoint.ALPHAS}
    read = table.read(official)
    assert {name: value.shape for name, value in read.items()} == {name: value.shape for name, value in ours.items()}
    written = table.write(ours)
    dropped = without(official, table.dropped)
    assert {name: value.shape for name, value in written.items()} == {n: value.shape for n, value in dropped.items()}
    averages = {name for name in listed if name.startswith("model_ema.")} - {"model_ema.decay", "model_ema.num_updates"}
    unet = [name for name in listed if name.startswith("model.diffusion_model.")]
    assert averages == {"model_ema." + name.removeprefix("model.").replace(".", "") for name in unet}


def test_the_published_recipe_trains_what_the_paper_trains(full_size):
    cfg, system = full_size
    groups = system.parameter_groups(system.lr)
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-3])
    listed = load("viewfusion", "zero123-xl.keys.info")[0]["n_params"]
    assert sum(p.numel() for p in system.denoiser.unet.parameters()) == listed["model.diffusion_model."]
    assert sum(p.numel() for p in groups[1]["params"]) == listed["cc_projection."]
    assert {name.split(".")[0] for name in system.trained()} == {"denoiser"}
    assert {name.split(".")[1] for name in system.averaged()} == {"unet"}
    factor = instantiate(cfg.schedule)
    assert factor(0) == pytest.approx(1e-6) and factor(100) == factor(300_000) == 1.0
    assert cfg.data.batch_size * cfg.trainer.devices == 1536
    assert (system.denoiser.prediction, system.timestep_power, cfg.trainer.ema_decay) == ("noise", 1.0, 0.9999)
