"""The VAE and CLIP's image tower, as Zero-1-to-3 and SyncDreamer run them, against the fixture `encoders`."""

import re

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core.checkpoints import clip, ldm
from core.checkpoints.rename import load_strict
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from tests.golden_fixture import load, rule_w
from tests.projects.syncdreamer.golden.common import close


@pytest.fixture(scope="module")
def golden_encoders():
    return load("syncdreamer", "encoders")


@pytest.fixture(scope="module")
def latents(golden_encoders):
    info, _ = golden_encoders
    config = info["kwargs"]["ddconfig"]
    model = Latents(AutoencoderKL(**ldm.vae_arguments(config, info["kwargs"]["embed_dim"]))).eval()
    num_levels = len(config["ch_mult"])
    sizes = [config["resolution"] // 2**level for level in range(num_levels)]
    table = ldm.vae(
        num_levels=num_levels,
        layers_per_block=config["num_res_blocks"],
        attention_levels=[level for level, size in enumerate(sizes) if size in config["attn_resolutions"]],
        theirs=info["key_prefix"]["AutoencoderKL"],
    )
    official = rule_w(table.write(model.state_dict()), info["exceptions"])
    load_strict(model, table.read(official), what="the encoders' VAE")
    return model


@pytest.fixture(scope="module")
def image_encoder(golden_encoders):
    info, _ = golden_encoders
    config = info["kwargs"]["clip_visual"]
    model = ImageEncoder(CLIPVisionModelWithProjection(CLIPVisionConfig(**clip.vision_arguments(**config)))).eval()
    prefix = info["key_prefix"]["VisionTransformer"].removesuffix("visual.")
    table = clip.vision(num_layers=config["layers"], theirs=prefix)
    official = rule_w(table.write(model.state_dict()), info["exceptions"])
    load_strict(model, table.read(official), what="the encoders' CLIP")
    return model


@torch.no_grad()
def test_latents_equal_the_official_first_stage(golden_encoders, latents):
    _, golden = golden_encoders
    moments = latents.moments(golden["image"])
    close(moments, golden["moments"])
    close(latents.sample(moments, golden["noise"]), golden["latent_scaled"])
    close(latents.encode(golden["image"], golden["noise"]), golden["latent_scaled"])
    close(latents.mode(moments), golden["mode_scaled"])
    close(latents.decode(golden["z_scaled"]), golden["decoded"])


@torch.no_grad()
def test_preprocessing_equals_the_official_resize_and_normalisation(golden_encoders, image_encoder):
    info, golden = golden_encoders
    found, expected = image_encoder.preprocess(golden["clip_image"]), golden["clip_preprocessed_crop"]
    height, width = expected.shape[-2:]
    # The crop's place is told in words only, so it is looked for: where its first pixel agrees, all of it must.
    corners = (found[..., : found.shape[-2] - height + 1, : found.shape[-1] - width + 1] - expected[..., :1, :1]).abs()
    places = (corners.amax(dim=(0, 1)) <= 1e-5).nonzero().tolist()
    assert places, "the crop's first pixel is nowhere in our picture"
    crops = torch.stack([found[..., y : y + height, x : x + width] for y, x in places])
    errors = (crops - expected).abs().flatten(1).amax(dim=1)
    assert errors.min() <= 1e-5
    told = re.search(r"\[:, ?:, ?(\d+):\d+, ?(\d+):\d+\]", info["tensors"]["clip_preprocessed_crop"]["meaning"])
    assert told is None or [int(told[1]), int(told[2])] == places[errors.argmin()]


@torch.no_grad()
def test_the_image_token_equals_the_official_embedding(golden_encoders, image_encoder):
    _, golden = golden_encoders
    close(image_encoder(golden["clip_image"])[:, 0], golden["clip_embed"])
