"""Training Zero-1-to-3 and its weights beyond the fixtures: what is dropped, what learns, which files are taken."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from core.config import instantiate
from core.errors import BadCheckpoint, BadConfig, BadData, MissingWeights
from core.settings import composed, settings
from core.training.denoising import PREDICTION
from core.training.ema import EMA
from data_tools.toybox.free import write_free
from data_tools.toybox.make import Recipe, make
from projects.viewfusion import checkpoint, train
from projects.viewfusion.model import Zero123
from projects.viewfusion.system import Zero123System, keep_masks
from projects.viewfusion.weights import is_ours, load_weights
from tests.projects.syncdreamer import tiny
from tests.projects.viewfusion import small

ROOT = Path(__file__).resolve().parents[3]


def system(*, prediction="noise", **options) -> Zero123System:
    torch.manual_seed(0)
    denoiser = small.denoiser(prediction=prediction)
    return Zero123System(denoiser=denoiser, latents=tiny.latents(), image_encoder=tiny.image_encoder(), **options)


def batch(size=2):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(2, size, 3, small.SIZE, small.SIZE, generator=generator) * 2 - 1
    return {"target_pixels": pixels[0], "input_pixels": pixels[1], "pose": torch.randn(size, 4, generator=generator)}


def encoded_batch(size=2):
    """What a data set of encoded views gives."""
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    return {
        "target_moments": draw(size, 8, 8, 8),
        "input_moments": draw(size, 8, 8, 8),
        "input_embedding": draw(size, 1, tiny.CONTEXT),
        "pose": draw(size, 4),
    }


def test_each_twentieth_of_the_draw_drops_its_part():
    token, latents = keep_masks(torch.tensor([0.0, 0.049, 0.05, 0.099, 0.1, 0.149, 0.15, 0.99]))
    assert token.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert latents.tolist() == [1, 1, 0, 0, 0, 0, 1, 1]


def test_the_pose_is_never_dropped(monkeypatch):
    made, seen = system(), []
    monkeypatch.setattr(made, "noise_loss", lambda *given: seen.append(given[3:]) or {})
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.07))  # drops token and latents
    made.loss(batch(), torch.Generator())
    context, latents = seen[0]
    token = torch.zeros(2, 1, made.denoiser.unet.config.cross_attention_dim)
    assert_close(context, made.denoiser.project(token, batch()["pose"]))
    assert not latents.any() and not torch.equal(context[0], context[1])


def test_at_first_the_images_embedding_passes_unchanged_and_a_pose_is_felt():
    model = small.denoiser()
    tokens, pose = torch.randn(3, 1, tiny.CONTEXT), torch.randn(3, 4)
    with torch.no_grad():
        assert_close(model.project(tokens, torch.zeros(3, 4)), tokens)
        assert ((model.project(tokens, pose) - tokens).abs().amax(dim=(1, 2)) > 1e-3).all()


def test_a_velocity_is_turned_into_the_noise_it_means():
    made = small.denoiser(prediction="velocity").eval()
    plain = small.denoiser().eval()
    plain.load_state_dict(made.state_dict())
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([20, 900])
    given = (torch.randn(2, 1, tiny.CONTEXT), torch.randn(2, 4, 8, 8))
    with torch.no_grad():
        velocity = plain.predict(x, t, *given)
        assert_close(made.predict(x, t, *given), made.schedule.noise_from_velocity(velocity, x, t))


def test_training_lowers_the_loss_of_one_batch():
    made = system(prediction="velocity")
    optimizer = torch.optim.Adam(made.parameter_groups(4e-3))
    losses = []
    for _ in range(12):
        loss = made.loss(encoded_batch(), torch.Generator().manual_seed(7))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(parameter.grad is not None for parameter in made.trained().values())


def test_the_loss_of_a_velocity_is_its_own_error():
    made = system(prediction="velocity")
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(2))
    x_0, noise, t = draw(2, 4, 8, 8), draw(2, 4, 8, 8), torch.tensor([100, 900])
    schedule, context, latents = made.denoiser.schedule, draw(2, 1, tiny.CONTEXT), draw(2, 4, 8, 8)
    signal, sigma = (values[t][:, None, None, None] for values in (schedule.sqrt_alphas_cumprod,
                                                                  schedule.sqrt_one_minus_alphas_cumprod))  # fmt: skip
    with torch.no_grad():
        found = made.noise_loss(x_0, t, noise, context, latents)["loss"]
        made.denoiser.prediction = "noise"  # what the UNet gives, as it is
        velocity = made.denoiser.predict(schedule.add_noise(x_0, noise, t), t, context, latents)
    assert_close(found, F.mse_loss(velocity, signal * noise - sigma * x_0), rtol=1e-4, atol=1e-6)


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        made = system()
        made.denoiser.recompute = recompute
        made.loss(encoded_batch(), torch.Generator().manual_seed(7))["loss"].backward()
        gradients.append([parameter.grad for parameter in made.trained().values()])
    assert_close(*gradients)


def test_only_the_unet_is_averaged():
    made = system()
    ema = EMA(made.averaged(), 0.999)
    names = set(made.trained())
    assert set(ema.averages) == {name for name in names if not name.startswith("denoiser.pose_projection.")} < names


def test_a_preview_has_a_row_for_each_pair():
    picture = system(preview_steps=2).eval().preview(batch(), torch.Generator().manual_seed(0))
    assert picture.shape == (3, 2 * small.SIZE, 3 * small.SIZE) and 0 <= picture.min() <= picture.max() <= 1


def test_images_of_another_size_are_refused():
    larger = {name: value.repeat(1, 1, 2, 2) if "pixels" in name else value for name, value in batch().items()}
    with pytest.raises(BadData, match="images of 64 x 64 pixels, the model of 32 x 32"):
        system().loss(larger, torch.Generator())


def test_the_beginning_of_a_run_may_draw_timesteps_with_a_power_of_its_own():
    made, means = system(early_timestep_power=50.0, early_until=0.5), []
    for made.progress in (0.0, 0.49, 0.5, 1.0):
        draw = torch.Generator().manual_seed(0)
        means.append(made.denoiser.schedule.draw_timesteps(4000, draw, power=made.power_now).float().mean().item())
    assert means == pytest.approx([980, 980, 500, 500], abs=20)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"preview_steps": 0}, "preview_steps=0"),
        ({"preview_scale": -1.0}, "preview_scale=-1"),
        ({"projection_lr_scale": -1.0}, "projection_lr_scale=-1"),
        ({"timestep_power": 0.0}, "timestep_power=0"),
        ({"early_timestep_power": 6.0}, "early_timestep_power=6.0, early_until=0.0: give both, or neither"),
        ({"early_until": 0.5}, "early_timestep_power=None, early_until=0.5: give both, or neither"),
        ({"early_timestep_power": 6.0, "early_until": 1.5}, "early_until=1.5"),
        ({"start": "nowhere.ckpt"}, "no weights to start from at 'nowhere.ckpt'.*model.start=null"),
    ],
)
def test_a_system_refuses_settings_that_would_fail_in_the_middle_of_a_training(wrong, says):
    with pytest.raises((BadConfig, MissingWeights), match=says):
        system(**wrong)


def finished(made, path, **metadata):
    """The file that a training leaves."""
    save_file(made.export(made.state_dict()), path, metadata={**made.export_metadata(), **metadata})
    return path


def test_a_finished_runs_file_is_loaded_and_holds_the_average_only(tmp_path):
    trained = system()
    torch.nn.init.normal_(trained.denoiser.pose_projection.weight)
    path = finished(trained, tmp_path / "model.safetensors")
    made = system()
    assert is_ours(path)
    load_weights(made, path)
    assert_close(made.denoiser.state_dict(), trained.denoiser.state_dict())
    with pytest.raises(BadCheckpoint, match="averaged weights only; set ema=true"):
        load_weights(made, path, ema=False)
    assert_close(system(start=str(path)).denoiser.state_dict(), trained.denoiser.state_dict())


def test_weights_that_mean_another_thing_are_refused(tmp_path):
    path = finished(system(), tmp_path / "model.safetensors", **{PREDICTION: "velocity"})
    with pytest.raises(BadCheckpoint, match=r"predict the velocity.*set model.denoiser.prediction=velocity"):
        load_weights(system(), path)
    official = tmp_path / "zero123.ckpt"
    torch.save({"state_dict": published(system())}, official)
    with pytest.raises(BadCheckpoint, match=r"predict the noise.*set model.denoiser.prediction=noise"):
        load_weights(system(prediction="velocity"), official, ema=False)


def published(made):
    """The state dict of an official file with these weights, without an average."""
    return checkpoint.official_table(made).write(
        {name: value for name, value in made.state_dict().items() if name != checkpoint.ALPHAS}
    )


def test_a_file_without_an_average_is_taken_only_where_the_plain_weights_are_asked_for(tmp_path):
    trained = system()
    torch.nn.init.normal_(trained.denoiser.pose_projection.weight)
    torch.save({"state_dict": published(trained), "global_step": 1}, tmp_path / "zero123.ckpt")
    with pytest.raises(BadCheckpoint, match="no averaged weights; set ema=false"):
        load_weights(system(), tmp_path / "zero123.ckpt")
    made = system()
    load_weights(made, tmp_path / "zero123.ckpt", ema=False)
    assert_close(made.state_dict(), trained.state_dict())


def test_training_starts_from_a_stable_diffusion_of_four_channels_that_knows_no_poses(tmp_path):
    trained = system()
    torch.nn.init.normal_(trained.denoiser.unet.conv_in.weight)
    state = {name: value for name, value in published(trained).items() if not name.startswith("cc_projection.")}
    first = "model.diffusion_model.input_blocks.0.0.weight"
    state[first] = state[first][:, :4].clone()
    torch.save({"state_dict": state}, tmp_path / "sd-image-conditioned-v2.ckpt")
    made = system(start=str(tmp_path / "sd-image-conditioned-v2.ckpt"))
    weight = made.denoiser.unet.conv_in.weight
    assert torch.equal(weight[:, :4], trained.denoiser.unet.conv_in.weight[:, :4]) and not weight[:, 4:].any()
    tokens = torch.randn(1, 1, tiny.CONTEXT)
    assert_close(made.denoiser.project(tokens, torch.zeros(1, 4)), tokens)
    del state["first_stage_model.quant_conv.weight"]
    torch.save({"state_dict": state}, tmp_path / "half.ckpt")
    with pytest.raises(BadCheckpoint, match=r"1 missing \(latents.vae.quant_conv.weight\)"):
        system(start=str(tmp_path / "half.ckpt"))


def test_a_missing_or_foreign_file_is_one_line(tmp_path):
    with pytest.raises(MissingWeights, match=r"nothing.ckpt.*zero123-xl.ckpt"):
        load_weights(system(), tmp_path / "nothing.ckpt")
    (tmp_path / "letter.ckpt").write_text("dear model")
    with pytest.raises(BadCheckpoint, match="neither safetensors nor torch's"):
        load_weights(system(), tmp_path / "letter.ckpt")
    whole = finished(system(prediction="velocity"), tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[:-9])
    with pytest.raises(BadCheckpoint, match=r"half\.safetensors: truncated"):
        load_weights(system(prediction="velocity"), tmp_path / "half.safetensors")


@pytest.mark.slow
def test_the_train_program_makes_weights_that_publish_and_load(tmp_path):
    ring, free = tmp_path / "ring", tmp_path / "free"
    list(make(ring, Recipe(), {"train": 3, "val": 1, "test": 1}, num_workers=0))
    list(write_free(ring, free, Recipe(), num_views=3, num_workers=0))
    run = tmp_path / "run"
    small_run = ["trainer.max_steps=3", "data.batch_size=2", "trainer.precision=32", "trainer.preview_every=3",
                 "trainer.preview_items=1", "logger.tensorboard=false"]  # fmt: skip

    def program(name, *arguments):
        command = [sys.executable, "-m", f"projects.viewfusion.{name}", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    program("train", "+experiment=viewfusion/toybox", f"data.root={free}", f"out={run}", *small_run)
    assert list((run / "samples").glob("*.png"))
    (average,) = (run / "checkpoints").glob("step_*/ema.safetensors")
    assert all(name.startswith("denoiser.unet.") for name in load_file(average))
    program("publish", f"run={run}", f"publish={tmp_path / 'toy'}", f"out={tmp_path / 'log'}")
    made = instantiate(
        settings(train.main.program, composed(train.main.program, ["+experiment=viewfusion/toybox"])).model
    )
    load_weights(made, tmp_path / "toy" / "model.safetensors")
    assert isinstance(made, Zero123System) and isinstance(made.denoiser, Zero123)
    assert made.latents.reduction * made.denoiser.unet.config.sample_size == made.denoiser.image_size == 64
    whole = load_file(run / "weights" / "model.safetensors")
    assert_close(made.denoiser.pose_projection.bias, whole["denoiser.pose_projection.bias"])
    assert (tmp_path / "toy" / "card.json").is_file()
