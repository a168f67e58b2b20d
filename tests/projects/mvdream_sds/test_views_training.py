"""Training the multi-view model: which steps read what, what is dropped, what learns, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import save_file
from torch.testing import assert_close
from torch.utils.data import default_collate

from core.errors import BadCheckpoint, BadConfig, BadData, MissingWeights
from core.training.loader import Plan, train_loader
from projects.mvdream_sds import checkpoint
from projects.mvdream_sds.data import Prompts, ViewsAndImages, captions_of
from projects.mvdream_sds.dreambooth import DreamBoothSystem
from projects.mvdream_sds.system import MultiViewSystem
from tests.projects.mvdream_sds import tiny_views as tiny


class Numbers:
    """Objects of one number each, or single images."""

    def __init__(self, count, sign):
        self.count, self.sign = count, sign

    def __len__(self):
        return self.count

    def __getitem__(self, index, generator):
        return {"number": self.sign * (index + torch.rand((), generator=generator))}


def both(**options):
    return ViewsAndImages(views=Numbers(10, 1), images=Numbers(50, -1), **options)


def read(items, first, last, rank=0, seed=0):
    plan = Plan(seed, rank, 2, batch_size=3, accumulate=1)
    steps = enumerate(train_loader(items, plan, first, last, 0, 0.0), start=first)
    return {step: batches[0]["number"] for step, (batches, _) in steps}


def is_2d(batch):
    return bool((batch < 0).all())


def test_a_step_is_all_objects_or_all_images_and_its_kind_a_function_of_seed_and_step():
    whole = read(both(), 0, 400)
    kinds = {step: is_2d(batch) for step, batch in whole.items()}
    assert all(is_2d(batch) or bool((batch > 0).all()) for batch in whole.values())
    assert all(batch.shape == ((3, 4) if kinds[step] else (3,)) for step, batch in whole.items())
    assert 0.24 < sum(kinds.values()) / len(kinds) < 0.36
    continued = read(both(), 200, 210)
    assert all(torch.equal(whole[step], batch) for step, batch in continued.items())
    other_rank, other_seed = read(both(), 0, 40, rank=1), read(both(), 0, 40, seed=1)
    assert all(is_2d(batch) == kinds[step] for step, batch in other_rank.items())
    assert all(not torch.equal(whole[step], batch) for step, batch in other_rank.items())
    assert any(is_2d(batch) != kinds[step] for step, batch in other_seed.items())


def test_a_probability_of_0_or_1_makes_all_steps_alike():
    assert not any(is_2d(batch) for batch in read(both(p_2d=0.0), 0, 20).values())
    assert all(is_2d(batch) for batch in read(both(p_2d=1.0), 0, 20).values())


def test_single_images_are_needed_where_steps_shall_read_them():
    with pytest.raises(BadConfig, match=r"p_2d=0.3 needs single images.*data.train.p_2d=0"):
        ViewsAndImages(views=Numbers(10, 1))
    with pytest.raises(BadConfig, match=r"p_2d=1\.5"):
        both(p_2d=1.5)
    with pytest.raises(BadData, match="single images is empty"):
        ViewsAndImages(views=Numbers(10, 1), images=Numbers(0, -1))


def test_captions_stand_in_the_order_of_their_images():
    groups = [{"caption": ["a", "b"]}, {"caption": ["c", "d"]}, {"caption": ["e", "f"]}]
    assert captions_of(default_collate(groups)) == list("abcdef")
    assert captions_of(default_collate([{"caption": "a"}, {"caption": "b"}])) == ["a", "b"]


def test_single_images_of_a_step_know_nothing_of_each_other_and_the_views_of_an_object_do():
    made, t = tiny.system(), torch.tensor([500] * 8)
    with torch.no_grad():
        x_0, context, camera = made.encode(tiny.images(), torch.Generator().manual_seed(0))
        assert camera is None and x_0.shape == (8, 1, 4, 8, 8)
        together = made.denoiser.predict(x_0, t, context, None)
        changed = x_0.clone()
        changed[1:] = 0
        assert torch.equal(made.denoiser.predict(changed, t, context, None)[0], together[0])
        x_0, context, camera = made.encode(tiny.objects(), torch.Generator().manual_seed(0))
        assert x_0.shape == (2, 4, 4, 8, 8)
        together = made.denoiser.predict(x_0, t[:2], context, camera)
        changed = x_0.clone()
        changed[:, 1:] = 0
        assert not torch.allclose(made.denoiser.predict(changed, t[:2], context, camera)[:, 0], together[:, 0])
        alone = tiny.system(joint=False)
        alone.denoiser.load_state_dict(made.denoiser.state_dict())
        assert_close(alone.denoiser.predict(changed, t[:2], context, camera)[:, 0],
                     alone.denoiser.predict(x_0, t[:2], context, camera)[:, 0])  # fmt: skip


def test_encoded_images_and_pictures_with_captions_are_the_same_to_the_model():
    made, batch = tiny.system(), tiny.pictures()
    pixels = rearrange(batch["pixels"], "b g c h w -> (b g) c h w")
    with torch.no_grad():
        moments = rearrange(made.latents.moments(pixels), "(b g) c h w -> b g c h w", b=2)
        context = rearrange(made.text_encoder(["a red", "a cube"] * 2), "(b g) l e -> b g l e", b=2)
    encoded = {"moments": moments, "context": context}
    one, other = (made.loss(given, torch.Generator().manual_seed(5)) for given in (batch, encoded))
    assert_close(one, other)
    assert set(one) == {"loss", "loss_2d"} and set(made.loss(tiny.objects(), torch.Generator())) == {"loss", "loss_3d"}


def given_to_noise_loss(made, batch, monkeypatch):
    """x_0, t, noise, context, camera, drop_camera of a step."""
    seen = []
    monkeypatch.setattr(made, "noise_loss", lambda *given: seen.append(given) or torch.zeros(()))
    made.loss(batch, torch.Generator().manual_seed(0))
    return seen[0]


def test_a_dropped_caption_is_the_empty_one_and_the_timestep_is_one_for_all_views(monkeypatch):
    batch = tiny.objects(200)
    made = tiny.system(caption_drop=0.25)
    x_0, t, noise, context, _, drop_camera = given_to_noise_loss(made, batch, monkeypatch)
    empty = made.text_encoder([""])
    dropped = torch.tensor([torch.equal(each, empty) for each in context])
    assert 0.15 < dropped.float().mean() < 0.35
    assert torch.equal(context[~dropped][:, 0], batch["context"][~dropped])
    assert t.shape == (200,) and noise.shape == x_0.shape and not drop_camera.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dropped_camera_is_no_camera_for_its_object_alone(dtype, monkeypatch):
    made, batch = tiny.system(camera_drop=0.5), tiny.objects(4)
    x_0, t, noise, context, camera, drop = given_to_noise_loss(made, batch, monkeypatch)
    assert 0 < drop.sum() < 4
    monkeypatch.undo()
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        error = made.noise_loss(x_0, t, noise, context, camera, drop)
        x_t = made.denoiser.schedule.add_noise(x_0, noise, t)
        seen, blind = (made.denoiser.predict(x_t, t, context, given) for given in (camera, None))
    expected = F.mse_loss(torch.where(drop[:, None, None, None, None], blind, seen).float(), noise)
    assert_close(error, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_the_loss_of_a_velocity_is_its_own_error():
    made = tiny.system(prediction="velocity")
    x_0, context, camera = made.encode(tiny.objects(), torch.Generator().manual_seed(0))
    noise, t, schedule = torch.randn(x_0.shape), torch.tensor([100, 900]), made.denoiser.schedule
    factors = (schedule.sqrt_alphas_cumprod[t], schedule.sqrt_one_minus_alphas_cumprod[t])
    signal, sigma = (factor[:, None, None, None, None] for factor in factors)
    with torch.no_grad():
        found = made.noise_loss(x_0, t, noise, context, camera, torch.zeros(2, dtype=torch.bool))
        made.denoiser.prediction = "noise"  # what the UNet gives, as it is
        velocity = made.denoiser.predict(schedule.add_noise(x_0, noise, t), t, context, camera)
    assert_close(found, F.mse_loss(velocity, signal * noise - sigma * x_0), rtol=1e-4, atol=1e-6)


def test_training_on_both_kinds_lowers_both_losses_and_reaches_every_weight():
    made = tiny.system(prediction="velocity")
    optimizer = torch.optim.Adam(made.parameter_groups(4e-3))
    losses = {"loss_3d": [], "loss_2d": []}
    touched = set()
    for _ in range(6):
        for batch in (tiny.objects(), tiny.images()):
            terms = made.loss(batch, torch.Generator().manual_seed(7))
            optimizer.zero_grad()
            terms["loss"].backward()
            optimizer.step()
            touched |= {name for name, value in made.trained().items() if value.grad is not None}
            for name in losses.keys() & terms.keys():
                losses[name].append(terms[name].item())
    assert all(values[-1] < 0.9 * values[0] for values in losses.values())
    assert touched == set(made.trained()) and all(name.startswith("denoiser.") for name in touched)


def test_what_reads_cameras_has_a_rate_of_its_own():
    groups = tiny.system(camera_lr_scale=10.0).parameter_groups(1e-4)
    assert [group["lr"] for group in groups] == [1e-4, pytest.approx(1e-3)]
    assert len(groups[1]["params"]) == 4


def test_the_beginning_of_a_run_may_draw_timesteps_with_a_power_of_its_own():
    made = tiny.system(timestep_power=2.0, early_timestep_power=6.0, early_until=0.5)
    powers = []
    for made.progress in (0.0, 0.49, 0.5, 1.0):
        powers.append(made.power_now)
    assert powers == [6.0, 6.0, 2.0, 2.0]


def test_a_preview_has_rows_of_views_with_or_without_the_truth():
    made = tiny.system(preview_steps=2).eval()
    picture = made.preview(tiny.objects(), torch.Generator().manual_seed(0))
    assert picture.shape == (3, 4 * tiny.SIZE, 4 * tiny.SIZE) and 0 <= picture.min() <= picture.max() <= 1
    prompts = Prompts(prompts=["a red cube"], num_views=3)
    shown = made.preview(default_collate([prompts.__getitem__(0, torch.Generator())]), torch.Generator().manual_seed(0))
    assert shown.shape == (3, tiny.SIZE, 3 * tiny.SIZE)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"preview_steps": 0}, "preview_steps=0"),
        ({"caption_drop": 1.5}, "caption_drop=1.5"),
        ({"camera_drop": -0.1}, "camera_drop=-0.1"),
        ({"timestep_power": 0.0}, "timestep_power=0"),
        ({"camera_lr_scale": -1.0}, "camera_lr_scale=-1"),
        ({"early_until": 0.5}, "early_timestep_power=None, early_until=0.5: give both, or neither"),
        ({"lora": {"rank": 0}}, "lora.rank=0"),
        ({"lora": {"ranks": 4}}, "model.lora: unknown key 'ranks'.*'rank'"),
        ({"lora": {"rank": 4}}, "model.lora learns adapters of a trained model: give its weights"),
        ({"start": "nowhere.ckpt"}, "no weights to start from at 'nowhere.ckpt'.*model.start=null"),
    ],
)
def test_a_system_refuses_settings_that_would_fail_in_the_middle_of_a_training(wrong, says):
    with pytest.raises((BadConfig, MissingWeights), match=says):
        tiny.system(**wrong)


def test_images_of_another_size_are_refused():
    batch = tiny.objects()
    batch["moments"] = batch["moments"].repeat(1, 1, 1, 2, 2)
    with pytest.raises(BadData, match="images of 64 x 64 pixels, the model of 32 x 32"):
        tiny.system().loss(batch, torch.Generator())


def published(made):
    """A file of official names with these weights."""
    state = {name: value for name, value in made.state_dict().items() if name != checkpoint.ALPHAS}
    return checkpoint.official_table(made, "openai").write(state)


@pytest.mark.slow
def test_training_starts_from_a_stable_diffusion_that_knows_no_cameras(tmp_path):
    trained = tiny.system()
    for parameter in trained.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    state = {name: value for name, value in published(trained).items() if "camera_embed" not in name}
    torch.save({"state_dict": state}, tmp_path / "sd.ckpt")
    made, fresh = tiny.system(start=str(tmp_path / "sd.ckpt")), tiny.system()
    assert_close(made.denoiser.unet.state_dict(), trained.denoiser.unet.state_dict())
    assert_close(made.denoiser.camera_embed.state_dict(), fresh.denoiser.camera_embed.state_dict())
    torch.save(published(trained), tmp_path / "mvdream.pt")
    whole = tiny.system(start=str(tmp_path / "mvdream.pt"))
    assert_close(whole.state_dict(), trained.state_dict())
    state.pop("first_stage_model.quant_conv.weight")
    torch.save({"state_dict": state}, tmp_path / "half.ckpt")
    with pytest.raises(BadCheckpoint, match=r"1 missing \(latents.vae.quant_conv.weight\)"):
        tiny.system(start=str(tmp_path / "half.ckpt"))
    with pytest.raises(BadCheckpoint, match=r"predict the noise.*set model.denoiser.prediction=noise"):
        tiny.system(start=str(tmp_path / "mvdream.pt"), prediction="velocity")


def test_training_starts_from_a_folder_of_diffusers(tmp_path):
    trained = tiny.system()
    trained.denoiser.unet.save_pretrained(tmp_path / "unet")
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # as SD's autoencoders have it
    (tmp_path / "vae").mkdir()
    vae = trained.latents.vae.state_dict()
    for now, then in earlier.items():
        vae = {name.replace(now, then): value for name, value in vae.items()}
    save_file(vae, tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(MissingWeights, match=r"no model.safetensors or pytorch_model.bin in .*text_encoder"):
        tiny.system(start=str(tmp_path))
    (tmp_path / "text_encoder").mkdir()
    tower = {f"text_model.{name}": value for name, value in trained.text_encoder.clip.state_dict().items()}
    torch.save(tower, tmp_path / "text_encoder" / "pytorch_model.bin")  # as libraries before transformers 5 named them
    made = tiny.system(start=str(tmp_path))
    for part in ("denoiser.unet.", "latents.", "text_encoder."):
        ours, theirs = ({k: v for k, v in each.state_dict().items() if k.startswith(part)} for each in (made, trained))
        assert_close(ours, theirs)
    for kind, options in ((MultiViewSystem, {"lora": {"rank": 2}}), (DreamBoothSystem, {})):
        with pytest.raises(BadConfig, match=r"knows no cameras, and this training teaches none.*start from an MVDream"):
            tiny.system(kind, start=str(tmp_path), **options)


def test_training_goes_on_from_a_file_of_ours_unless_it_means_another_thing(tmp_path):
    trained = tiny.system()
    torch.nn.init.normal_(trained.denoiser.camera_embed.linear_1.weight)
    path = tmp_path / "model.safetensors"
    torch.nn.init.normal_(trained.latents.vae.quant_conv.weight)  # other than those of the tests' systems
    save_file(trained.export(trained.state_dict()), path, metadata=trained.export_metadata())
    assert_close(tiny.system(start=str(path)).state_dict(), trained.state_dict())
    with pytest.raises(BadCheckpoint, match=r"predict the noise.*prediction=noise"):
        tiny.system(start=str(path), prediction="velocity")
    with pytest.raises(BadCheckpoint, match=r"with joint attention.*set model.denoiser.joint=true"):
        tiny.system(start=str(path), joint=False)
