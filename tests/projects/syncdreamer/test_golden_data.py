"""The official input framing, training images and image metrics, driven by the fixtures `data` and `eval_metrics`."""

import math

import pytest
import torch
from einops import rearrange
from PIL import Image
from torch.testing import assert_close

from core.images import prepare_input, read_image, training_image
from tests.golden_fixture import load


@pytest.fixture(scope="module")
def data():
    return load("syncdreamer", "data")


@pytest.fixture
def picture(data, tmp_path):
    Image.fromarray(data[1]["input_rgba"].numpy()).save(tmp_path / "input.png")
    return read_image(tmp_path / "input.png")


def test_inputs_are_framed_as_officially(data, picture):
    info, tensors = data
    for crop_size in info["crop_sizes"]:
        expected = tensors[f"input_image_crop{crop_size}"]
        pixels = prepare_input(picture, crop_size=crop_size, size=expected.shape[0])
        pixels = rearrange(pixels, "c h w -> h w c")
        step = expected.shape[0] // tensors[f"input_image_crop{crop_size}_sub"].shape[0]
        assert_close(pixels[::step, ::step], tensors[f"input_image_crop{crop_size}_sub"], atol=1e-6, rtol=0)
        assert torch.equal(((pixels + 1) / 2 * 255).round().to(torch.uint8), expected)


def test_elevations_are_radians_in_single_precision(data):
    info, tensors = data
    assert_close(torch.tensor([math.radians(info["elevation_deg"])]), tensors["input_elevation"])


def test_training_images_are_composited_and_cut_as_officially(data):
    _, tensors = data
    image = training_image(rearrange(tensors["train_rgba_crop"], "h w c -> c h w").float() / 255)
    image = rearrange(image, "c h w -> h w c")
    assert torch.equal((image * 255).round().to(torch.uint8), tensors["train_composited_crop"])
    assert_close(image * 2 - 1, tensors["train_tensor_crop"], atol=1e-6, rtol=0)
