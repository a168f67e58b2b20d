"""SyncDreamer beyond the fixtures: what must not change the result, and what must."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from core.config import instantiate
from core.errors import BadCheckpoint, BadConfig, BadData, BadRequest, MissingWeights
from core.settings import composed, settings
from core.training.denoising import PREDICTION
from projects.syncdreamer import checkpoint, generate, prediction, train, weights
from projects.syncdreamer import predict as syncdreamer_predict
from projects.syncdreamer.model import Condition, SyncDreamer
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.system import keep_masks
from projects.syncdreamer.volume import FrustumNet, SpatialVolume
from tests.golden_fixture import golden_root
from tests.projects.syncdreamer import tiny


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    model = tiny.denoiser().eval()
    for name, parameter in model.named_parameters():
        if "proj_out" in name or "conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def a_condition(batch=1):
    generator = torch.Generator().manual_seed(1)
    return Condition(
        torch.randn(batch, 1, tiny.CONTEXT, generator=generator),
        torch.randn(batch, 4, 8, 8, generator=generator),
        torch.full((batch,), 0.3),
    )


@pytest.mark.parametrize("views_per_batch", [1, 5, 8])
def test_the_number_of_views_in_a_batch_does_not_change_the_images(denoiser, views_per_batch):
    results = []
    for per_batch in (16, views_per_batch):
        random = torch.Generator().manual_seed(3)
        draw = lambda shape, random=random: torch.randn(shape, generator=random)  # noqa: E731
        results.append(sample(denoiser, a_condition(), draw, num_steps=2, views_per_batch=per_batch))
    assert_close(*results, rtol=0, atol=1e-5)


def test_samples_of_a_batch_do_not_see_each_other(denoiser):
    x, t = torch.randn(2, 16, 4, 8, 8), torch.tensor([100, 700])
    both = a_condition(2)
    with torch.no_grad():
        together = denoiser.denoise(x, t, both)
        alone = denoiser.denoise(x[1:], t[1:], Condition(both.context[1:], both.latents[1:], both.elevation[1:]))
    assert_close(together[1:], alone, rtol=0, atol=1e-5)


def test_every_view_depends_on_every_noisy_view(denoiser):
    x, t = torch.randn(1, 16, 4, 8, 8), torch.tensor([500])
    changed = x.clone()
    changed[:, 5] += 1
    with torch.no_grad():
        difference = (denoiser.denoise(x, t, a_condition()) - denoiser.denoise(changed, t, a_condition())).abs()
    assert (difference.amax(dim=(0, 2, 3, 4)) > 1e-6).all()


def test_guidance_with_empty_volumes_equals_zeroed_ones(denoiser):
    x, t, condition = torch.randn(3, 4, 8, 8), torch.tensor([10, 20, 30]), a_condition(3)
    zero_volumes = [torch.zeros(3, 8, 4, 8, 8), torch.zeros(3, 16, 2, 4, 4)]
    with torch.no_grad():
        fast = denoiser.predict(x, t, condition.context, condition.latents, None)
        plain = denoiser.predict(x, t, condition.context, condition.latents, zero_volumes)
    assert_close(fast, plain, rtol=0, atol=1e-5)


def test_another_number_of_views_is_refused_with_a_model_that_can(denoiser):
    with pytest.raises(BadRequest, match=r"exactly 16 views, 17 were asked for.*viewfusion"):
        denoiser.denoise(torch.zeros(1, 17, 4, 8, 8), torch.tensor([1]), a_condition())


def test_each_twentieth_of_the_draw_drops_its_part():
    latents, volume, context = keep_masks(torch.tensor([0.0, 0.05, 0.07, 0.12, 0.18, 0.21, 0.99]))
    assert latents.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert volume.tolist() == [0, 0, 1, 0, 1, 1, 1]
    assert context.tolist() == [0, 0, 1, 1, 0, 1, 1]


def test_training_lowers_the_loss_of_one_batch():
    torch.manual_seed(0)
    system = tiny.system(finetune_unet=True, finetune_projection=True, fresh_lr_scale=1.0)
    batch = {
        "target_pixels": torch.rand(1, 16, 3, 32, 32) * 2 - 1,
        "input_pixels": torch.rand(1, 3, 32, 32) * 2 - 1,
        "input_elevation": torch.tensor([[0.2]]),
    }
    optimizer = torch.optim.Adam(system.parameter_groups(2e-3))
    losses = []
    for _ in range(30):
        loss = system.loss(batch, torch.Generator().manual_seed(7))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_target_views": 0}, "num_target_views=0: expected a whole number from 1 to 16"),
        ({"num_target_views": 17}, "num_target_views=17"),
        ({"preview_steps": 30}, "preview_steps=30: 30 sampling steps do not divide 1000 timesteps; use"),
        ({"preview_scale": -1.0}, "preview_scale=-1"),
        ({"fresh_lr_scale": -1.0}, "fresh_lr_scale=-1"),
        ({"timestep_power": 0.0}, "timestep_power=0"),
        ({"single_view_until": 1.5, "finetune_unet": True}, "single_view_until=1.5"),
        ({"single_view_until": 0.5}, "single_view_until=0.5 needs a backbone that learns: finetune_unet=true"),
        ({"start": "nowhere.ckpt"}, "no weights to start from at 'nowhere.ckpt'.*model.start=null"),
    ],
)
def test_a_system_refuses_settings_that_would_fail_in_the_middle_of_a_training(wrong, says):
    with pytest.raises((BadConfig, MissingWeights), match=says):
        tiny.system(**wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_views": 8}, r"spatial_net.in_channels=32: expected 16, num_views=8 times target_encoder.out_channels=2"),
        ({"volume_channels": [8]}, r"volume_channels=\[8\]: expected frustum_net.channels, which is \[8, 16\]"),
        ({"volume_channels": [8, 12]}, r"volume_channels=\[8, 12\]: expected frustum_net.channels"),
        ({"volume": tiny.volume(channels=(8, 8, 16)), "volume_channels": [8, 8, 16]}, "the UNet's 2 levels"),
    ],
)
def test_a_denoiser_refuses_a_volume_that_does_not_fit(wrong, says):
    unet = tiny.denoiser().unet
    fitting = {"volume": tiny.volume(), "volume_channels": [8, 16], "num_views": 16}
    with pytest.raises(BadConfig, match=says):
        SyncDreamer(unet=unet, image_size=32, time_dim=16, **(fitting | wrong))


def test_a_volume_refuses_nets_that_do_not_fit_each_other():
    parts = tiny.volume()
    with pytest.raises(BadConfig, match=r"frustum_net.in_channels=4: expected spatial_net.channels\[0\], which is 8"):
        SpatialVolume(
            target_encoder=parts.target_encoder,
            spatial_net=parts.spatial_net,
            frustum_net=FrustumNet(in_channels=4, channels=(8, 16), time_dim=16),
        )


@pytest.mark.parametrize("kind", ["pixels", "moments"])
def test_data_of_another_number_of_views_is_refused_at_the_first_batch(kind):
    system = tiny.system(single_view_until=1.0, finetune_unet=True)  # builds no volume, which would notice
    batch = a_batch()
    if kind == "moments":
        batch = {"target_moments": torch.zeros(2, 8, 8, 8, 8), "input_elevation": batch["input_elevation"]}
    else:
        batch["target_pixels"] = batch["target_pixels"][:, :8]
    with pytest.raises(BadData, match=r"8 target views per object, the model 16; set model.denoiser.num_views=8"):
        system.loss(batch, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("trained", "fits"), [("noise", True), ("velocity", False), (None, True)])
def test_weights_say_what_they_predict_and_another_reading_is_refused(trained, fits, tmp_path):
    system = tiny.system()  # reads noise
    metadata = None if trained is None else system.export_metadata() | {PREDICTION: trained}
    save_file(system.export(system.state_dict()), tmp_path / "m.safetensors", metadata=metadata)
    with nullcontext() if fits else pytest.raises(BadCheckpoint, match=r"prediction=noise reads.*prediction=velocity"):
        weights.load_weights(system, tmp_path / "m.safetensors")


def test_published_weights_predict_noise(tmp_path):
    system = tiny.system()
    system.denoiser.prediction = "velocity"
    save_file({"spatial_volume.x": torch.zeros(1)}, tmp_path / "official.safetensors")
    with pytest.raises(BadCheckpoint, match=r"set model\.denoiser\.prediction=noise"):
        weights.load_weights(system, tmp_path / "official.safetensors")


def test_the_noise_schedule_comes_with_the_weights(tmp_path):
    trained, other = tiny.denoiser(beta_end=0.02), tiny.system()
    state = {f"denoiser.{name}": tensor for name, tensor in trained.state_dict().items()}
    save_file({**other.export(other.state_dict()), **state}, tmp_path / "m.safetensors")
    weights.load_weights(other, tmp_path / "m.safetensors")
    assert torch.equal(other.denoiser.schedule.alphas_cumprod, trained.schedule.alphas_cumprod)


def a_batch(batch=2):
    random = torch.Generator().manual_seed(5)
    return {
        "target_pixels": torch.rand(batch, 16, 3, 32, 32, generator=random) * 2 - 1,
        "input_pixels": torch.rand(batch, 3, 32, 32, generator=random) * 2 - 1,
        "input_elevation": torch.full((batch, 1), 0.2),
    }


def with_gradient(system, progress):
    system.zero_grad(set_to_none=True)
    system.progress = progress
    system.loss(a_batch(), torch.Generator().manual_seed(1))["loss"].backward()
    return {name for name, parameter in system.trained().items() if parameter.grad is not None}


def test_views_are_learnt_singly_at_first_and_with_the_volume_from_then_on():
    system = tiny.system(single_view_until=0.5, finetune_unet=True, finetune_projection=True)
    before, after = with_gradient(system, 0.49), with_gradient(system, 0.5)
    assert any(name.startswith("denoiser.unet.") for name in before)
    assert not any(name.startswith(("denoiser.volume.", "denoiser.time_embedding.")) for name in before)
    assert after == set(system.trained())
    assert system.has_idle_parameters and not tiny.system().has_idle_parameters


def test_a_single_views_loss_is_the_joint_one_with_its_volume_dropped():
    torch.manual_seed(0)
    system = tiny.system(single_view_until=0.5, finetune_unet=True).eval()
    for block in (system.denoiser.depth_middle, *system.denoiser.depth_up):
        torch.nn.init.normal_(block.proj_out[-1].weight, std=0.1)
    x_0, condition = system.encode(a_batch(), torch.Generator().manual_seed(1))
    t, noise, indices = torch.tensor([100, 700]), torch.randn(x_0.shape), torch.tensor([[3], [9]])
    volume_dropped = torch.full((2,), 0.12)
    losses = []
    with torch.no_grad():
        for system.progress, drop in ((0.0, None), (1.0, volume_dropped), (1.0, None)):
            losses.append(system.noise_loss(x_0, condition, t, noise, indices, drop).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] != pytest.approx(losses[2], abs=1e-4)


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_timesteps_are_drawn_with_the_density_of_their_power(power, monkeypatch):
    system = tiny.system(timestep_power=power)
    drawn = []
    monkeypatch.setattr(system, "noise_loss", lambda x_0, condition, t, *rest: drawn.append(t) or torch.zeros(()))
    monkeypatch.setattr(system, "encode", lambda batch, generator: (torch.zeros(400, 16, 1, 1, 1), a_condition(400)))
    for seed in range(20):
        system.loss({"input_elevation": torch.zeros(400, 1)}, torch.Generator().manual_seed(seed))
    t = torch.cat(drawn).float()
    assert len(t) == 8000 and t.min() >= 0 and t.max() <= 999
    assert t.mean() == pytest.approx(1000 * power / (power + 1), abs=15)


def test_a_fine_tuning_starts_from_all_of_a_syncdreamer(tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "model.safetensors"
    save_file(tiny.system().export(tiny.system().state_dict()), file)
    started = tiny.system(start=str(file)).state_dict()
    for name, tensor in load_file(file).items():
        assert torch.equal(started[name], tensor), name


def test_a_fine_tuning_starts_from_zero123_where_the_file_is_one(tmp_path, monkeypatch):
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, tmp_path / "zero123.safetensors")
    asked = []
    monkeypatch.setattr(weights, "load_zero123", lambda system, path: asked.append(path))
    tiny.system(start=str(tmp_path / "zero123.safetensors"))
    assert asked == [tmp_path / "zero123.safetensors"]


def predict(tmp_path, argument):
    (tmp_path / "toybox").mkdir()
    program = syncdreamer_predict.main.program
    typed = [f"root={tmp_path / 'toybox'}", "+experiment=syncdreamer/toybox", argument]
    cfg = settings(program, composed(program, [line for line in typed if line]))
    prediction.predict(cfg)


@pytest.mark.parametrize(
    "argument",
    ["input_view=16", "input_view=-1", "objects_per_batch=0", "num_objects=0", "sample_steps=2000", "sample_steps=0",
     "batch_view_num=0", "eta=2", "cfg_scale=-1", "precision=8"],
)  # fmt: skip
def test_a_prediction_refuses_wrong_settings_before_it_reads_anything(argument, tmp_path):
    with pytest.raises(BadConfig, match=argument):
        predict(tmp_path, argument)


def test_a_prediction_without_data_says_how_to_make_it(tmp_path):
    with pytest.raises(BadData, match=r"no toybox in .* data_tools\.toybox"):
        predict(tmp_path, "")


def test_what_is_frozen_gets_no_gradient():
    system = tiny.system()
    trained = set(system.trained())
    assert all(name.startswith(("denoiser.depth_", "denoiser.volume", "denoiser.time_embedding")) for name in trained)
    grouped = {id(p) for group in system.parameter_groups(1e-4) for p in group["params"]}
    assert grouped == {id(parameter) for parameter in system.trained().values()}


@pytest.fixture(scope="module")
def full_size():
    program = generate.main.program
    cfg = settings(program, composed(program, ["input=x"]))
    with torch.device("meta"):
        return instantiate(cfg.model)


def official_shapes(name):
    listed = json.loads((golden_root() / "syncdreamer" / f"{name}.keys.json").read_text())
    return {key: tuple(shape) for key, shape in listed.items()}


def test_the_published_checkpoint_has_exactly_our_tensors(full_size):
    """Both ways: each official tensor has its place in our model, and each of ours its official one."""
    official, table = official_shapes("syncdreamer-pretrain"), checkpoint.official_table()
    ours = {name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()}
    written = {name: tuple(t.shape) for name, t in table.write(full_size.state_dict()).items()}
    assert written == {key: shape for key, shape in official.items() if key not in dropped(official, table)}
    read = table.read({key: torch.empty(shape, device="meta") for key, shape in official.items()})
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == ours


def dropped(official, table):
    return [key for key in official if any(key == path or key.startswith(f"{path}.") for path in table.dropped)]


def test_what_is_dropped_of_the_published_checkpoint_is_clips_text_tower_alone():
    official, table = official_shapes("syncdreamer-pretrain"), checkpoint.official_table()
    assert all(
        key.startswith("clip_image_encoder.model.") and ".visual." not in key for key in dropped(official, table)
    )


def test_zero123_gives_a_fine_tuning_all_it_has(full_size, tmp_path, monkeypatch):
    state = {key: torch.empty(shape, device="meta") for key, shape in official_shapes("zero123-xl").items()}
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda path: state)
    checkpoint.load_zero123(full_size, Path("zero123-xl.ckpt"))
    used = set(checkpoint.zero123_table().read(state))
    ours = set(full_size.state_dict())
    assert used <= ours
    fresh = {name.split(".")[1] for name in ours - used}
    buffers = {"world_to_camera", "intrinsics", "azimuths"}
    assert fresh == {"volume", "depth_middle", "depth_up", "time_embedding", "schedule"} | buffers


def test_a_four_channel_unet_is_widened_with_zeros():
    key = "model.diffusion_model.input_blocks.0.0.weight"
    weight = torch.randn(320, 4, 3, 3)
    widened = checkpoint.widen_input({key: weight})[key]
    assert torch.equal(widened[:, :4], weight) and not widened[:, 4:].any() and widened.shape[1] == 8


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    system = tiny.system()
    with pytest.raises(BadCheckpoint):
        checkpoint.load_strict(system, {"denoiser.nothing": torch.zeros(1)}, what="a test")


def test_the_papers_experiment_trains_what_the_paper_trains():
    given = ["+experiment=syncdreamer/paper", "data.train.target_dir=t", "data.train.input_dir=i", "data.train.uids=u"]
    program = train.main.program
    cfg = settings(program, composed(program, [*given, "model.start=null"]))
    with torch.device("meta"):
        system = instantiate(cfg.model, lr=cfg.optimizer.lr)
    assert {name.split(".")[1] for name in system.trained()} == {"depth_middle", "depth_up", "volume", "time_embedding"}
    groups = system.parameter_groups(system.lr)
    assert [group["lr"] for group in groups] == pytest.approx([5e-5, 5e-4, 5e-4])
    assert sum(p.numel() for group in groups for p in group["params"]) == 57_321_472 + 131_584 + 48_567_552
    assert (system.denoiser.prediction, system.num_target_views, system.drop_conditions) == ("noise", 1, False)
    factor = instantiate(cfg.schedule)
    assert factor(0) == pytest.approx(0.02) and factor(100) == factor(80_000) == 1.0


def test_views_learnt_singly_draw_timesteps_with_a_power_of_their_own(monkeypatch):
    system = tiny.system(single_view_until=0.5, finetune_unet=True, single_view_timestep_power=50.0, timestep_power=1.0)
    drawn = []
    monkeypatch.setattr(system, "noise_loss", lambda x_0, condition, t, *rest: drawn.append(t) or torch.zeros(()))
    monkeypatch.setattr(system, "encode", lambda batch, generator: (torch.zeros(400, 16, 1, 1, 1), a_condition(400)))
    for system.progress in (0.0, 0.49, 0.5, 1.0):
        system.loss({"input_elevation": torch.zeros(400, 1)}, torch.Generator().manual_seed(0))
    means = [t.float().mean().item() for t in drawn]
    assert means[:2] == pytest.approx([1000 * 50 / 51] * 2, abs=5)
    assert means[2:] == pytest.approx([500] * 2, abs=50)
