"""The shared toybox networks: they train, are published in their libraries' formats, and the bundled ones are good."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from torch.testing import assert_close
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from core.data.toybox import open_pack
from core.metrics.images import psnr
from core.models.bundled import WEIGHTS, image_encoder, latents
from data_tools.toybox.make import Recipe, make
from projects.toybox.clip import tokenize, word_tokenizer
from projects.toybox.train import main
from projects.toybox.vae import VaeSystem, in_range

QUICK = ["trainer.max_steps=2", "trainer.val_batches=1", "logger.tensorboard=false", "data.batch_size=2"]


@pytest.fixture(scope="module")
def toybox(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("data")
    list(make(root, Recipe(seed=0), {"train": 3, "val": 1, "test": 4}, num_workers=0))
    return str(root)


@pytest.mark.slow
def test_the_vae_trains_and_is_published_with_a_card(toybox, tmp_path):
    main(["+experiment=toybox/vae", f"out={tmp_path}", f"data.root={toybox}", *QUICK])
    card = json.loads((tmp_path / "published" / "card.json").read_text())
    vae = AutoencoderKL.from_pretrained(tmp_path / "published")
    assert card["measured"]["test_psnr_db"] > 0 and card["cpu_seconds"] >= 0 and card["data_sha256"]
    assert vae.config.scaling_factor == pytest.approx(1 / card["measured"]["latent_std"])
    pixels = open_pack(toybox, "train").pixels(0, list(range(8)))
    assert vae.encode(pixels).latent_dist.mean.shape == (8, 4, 16, 16)
    assert str(tmp_path) not in json.dumps(card["config"]["model"])
    assert set(card["files"]) == {"diffusion_pytorch_model.safetensors"}
    trained = json.loads((tmp_path / "weights" / "provenance.json").read_text())
    assert all(card[key] == trained[key] for key in ("command", "cpu_seconds", "code", "seed", "date"))


@pytest.mark.slow
def test_a_finished_run_started_again_is_published_where_it_is_told(toybox, tmp_path):
    settings = ["+experiment=toybox/vae", f"out={tmp_path / 'run'}", f"data.root={toybox}", *QUICK]
    main(settings)
    main([*settings, f"publish={tmp_path / 'elsewhere'}"])
    first, second = (json.loads((tmp_path / path / "card.json").read_text()) for path in ("run/published", "elsewhere"))
    assert first["files"] == second["files"] and first["measured"] == second["measured"]
    assert second["cpu_seconds"] >= first["cpu_seconds"]


def vae_system(vae: AutoencoderKL, **weights: float) -> VaeSystem:
    plain = {"square_weight": 2.0, "edge_weight": 0.25, "kl_weight": 0.0, "colour_weight": 0.0}
    return VaeSystem(vae=vae, colour_mean=0.5, colour_std=0.25, **plain | weights)


def test_latents_are_pulled_towards_the_colours_of_the_picture_in_small():
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(block_out_channels=[8, 16], norm_num_groups=4, latent_channels=4, **blocks)
    for parameter in vae.quant_conv.parameters():
        torch.nn.init.zeros_(parameter)  # all latents are 0: the colour at `colour_mean`
    losses = []
    for level in (0.5, 0.75):
        pixels = torch.full((1, 3, 16, 16), level)
        terms = vae_system(vae, colour_weight=3.0).loss({"pixels": pixels}, torch.Generator().manual_seed(0))
        plain = vae_system(vae).loss({"pixels": pixels}, torch.Generator().manual_seed(0))
        losses.append((float(terms["colour"]), float(terms["loss"] - plain["loss"])))
    assert losses == [pytest.approx((0.0, 0.0), abs=1e-6), pytest.approx((1.0, 3.0), rel=1e-5)]


def test_the_logged_psnr_is_the_metric_and_a_step_that_diverged_is_left_to_the_loop_to_judge():
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    vae = AutoencoderKL(block_out_channels=[8, 16], norm_num_groups=4, **blocks)
    system = vae_system(vae)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1

    @torch.no_grad()
    def logged() -> dict[str, torch.Tensor]:
        return system.loss({"pixels": pixels}, torch.Generator().manual_seed(0))

    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample.detach()
    assert float(logged()["psnr"]) == pytest.approx(float(psnr(in_range(decoded), in_range(pixels)).mean()), rel=1e-6)
    vae.decoder.conv_out.weight.data.fill_(float("nan"))
    assert torch.isnan(logged()["loss"])


@pytest.mark.slow
def test_the_towers_train_and_are_published_with_their_tokenizer(toybox, tmp_path):
    main(["+experiment=toybox/clip", f"out={tmp_path}", f"data.root={toybox}", *QUICK])
    folder = tmp_path / "published"
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    tokens = tokenize(tokenizer, ["a red cube", "a small blue torus on top of a red cube"], 64)
    assert text(**tokens).text_embeds.shape == (2, 64)
    assert 0 <= json.loads((folder / "card.json").read_text())["measured"]["test_image_to_caption_top1"] <= 1


def test_every_word_of_the_grammar_has_a_token_and_padding_changes_nothing(toybox):
    tokenizer = word_tokenizer(toybox)
    captions = open_pack(toybox, "train").captions
    for caption in captions:
        ids = tokenizer(caption)["input_ids"]
        assert ids[0] == 1 and ids[-1] == 3 and 2 not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ,", ",") == caption
    assert 2 in tokenizer("a red giraffe")["input_ids"]


def test_bundled_vae_reconstructs_held_out_objects_to_30_db_with_unit_latents(toybox):
    model, test = latents("toybox_vae"), open_pack(toybox, "test")
    pixels = torch.cat([test.pixels(number, [0, 5, 10, 20, 27]) for number in range(4)])
    with torch.no_grad():
        encoded = model.encode(pixels, torch.Generator().manual_seed(0))
        assert float(psnr(in_range(model.decode(encoded)), in_range(pixels)).mean()) > 30
    assert 0.8 < float(encoded.std()) < 1.25


def test_bundled_towers_match_held_out_images_with_their_captions(toybox):
    test = open_pack(toybox, "test")
    folder = WEIGHTS / "toybox_clip"
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", local_files_only=True).eval()
    with torch.no_grad():
        captions = torch.nn.functional.normalize(text(**tokenize(tokenizer, test.captions, 64)).text_embeds, dim=-1)
        pixels = torch.cat([test.pixels(number, [0, 6, 12]) for number in range(4)])
        likeness = image_encoder("toybox_clip").eval()(pixels)[:, 0] @ captions.T
    assert_close(likeness.argmax(-1), torch.arange(4).repeat_interleave(3))


def test_bundled_weights_are_small_and_their_cards_name_command_cost_data_and_result():
    for name in ("toybox_vae", "toybox_clip"):
        files = list((WEIGHTS / name).rglob("*.safetensors"))
        assert files and sum(path.stat().st_size for path in files) < 12 * 2**20
        card = json.loads((WEIGHTS / name / "card.json").read_text())
        assert "projects.toybox.train" in card["command"]
        assert card["cpu_seconds"] > 0 and len(card["data_sha256"]) == 64 and card["measured"]
