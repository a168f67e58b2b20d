import pytest
import torch
from diffusers import AutoencoderKL
from torch.testing import assert_close
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core.models.encoders import CLIP_MEAN, CLIP_STD, ImageEncoder
from core.models.latents import Latents


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(block_out_channels=[8, 16], norm_num_groups=4, scaling_factor=0.7, **blocks).eval()


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=8,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


@torch.no_grad()
def test_chunks_of_views_give_the_same_latents_and_images(vae):
    pixels = torch.rand(5, 3, 16, 16) * 2 - 1
    whole, chunked = Latents(vae, max_batch=8), Latents(vae, max_batch=2)
    moments = whole.moments(pixels)
    assert_close(chunked.moments(pixels), moments, rtol=0, atol=1e-5)
    assert_close(chunked.decode(whole.mode(moments)), whole.decode(whole.mode(moments)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_chunks_of_views_give_the_same_tokens(clip):
    pixels = torch.rand(5, 3, 20, 20) * 2 - 1
    tokens = ImageEncoder(clip)(pixels)
    assert tokens.shape == (5, 1, ImageEncoder(clip).dim)
    assert_close(ImageEncoder(clip, max_batch=2)(pixels), tokens, rtol=0, atol=1e-5)


def test_the_scale_is_the_autoencoders_own_unless_given(vae):
    assert Latents(vae).scaling_factor == 0.7
    assert Latents(vae, scaling_factor=0.18215).scaling_factor == 0.18215


def test_equal_generators_give_equal_latents_and_noise_can_be_given(vae):
    moments = torch.randn(2, 8, 4, 4)
    latents = Latents(vae)
    draws = [latents.sample(moments, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*draws)
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(latents.sample(moments, noise), draws[0])
    assert torch.equal(latents.sample(moments, torch.zeros_like(noise)), latents.mode(moments))


def test_extreme_log_variances_stay_finite(vae):
    moments = torch.cat([torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 1e6)], dim=1)
    assert Latents(vae).sample(moments, torch.ones(1, 4, 2, 2)).isfinite().all()


def test_gradients_reach_the_pixels_through_the_encoder(vae):
    pixels = torch.zeros(1, 3, 16, 16, requires_grad=True)
    Latents(vae).encode(pixels, torch.Generator().manual_seed(0)).sum().backward()
    assert pixels.grad.isfinite().all() and pixels.grad.abs().sum() > 0


def test_preprocessing_keeps_an_image_of_the_towers_size(clip):
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
    assert_close(ImageEncoder(clip).preprocess(pixels), ((pixels + 1) / 2 - mean) / std)
