"""The official input framing and training images, driven by the fixture `data`."""

import math

import pytest
import torch
from einops import rearrange
from PIL import Image
from torch.testing import assert_close

from core.images import prepare_input, read_image, training_image
from tests.golden_fixture import load


@pytest.fixture(scope="module")
def golden_data():
    return load("syncdreamer", "data")


@pytest.fixture
def picture(golden_data, tmp_path):
    Image.fromarray(golden_data[1]["input_rgba"].numpy()).save(tmp_path / "input.png")
    return read_image(tmp_path / "input.png")


def in_8_bits(pixels):
    return ((pixels + 1) / 2 * 255).round().to(torch.uint8)


def step_of(part, whole):
    """Every how many pixels of the 8-bit picture `whole` the floats `part` show."""
    rounded = in_8_bits(part)
    return next(step for step in range(1, len(whole) + 1) if torch.equal(whole[::step, ::step], rounded))


def test_inputs_are_framed_as_officially(golden_data, picture):
    info, tensors = golden_data
    for crop_size in info["crop_sizes"]:
        expected, part = tensors[f"input_image_crop{crop_size}"], tensors[f"input_image_crop{crop_size}_sub"]
        pixels = prepare_input(picture, crop_size=crop_size, size=expected.shape[0])
        pixels = rearrange(pixels, "c h w -> h w c")
        assert torch.equal(in_8_bits(pixels), expected)
        step = step_of(part, expected)
        assert_close(pixels[::step, ::step], part, atol=1e-6, rtol=0)


def test_elevations_are_radians_in_single_precision(golden_data):
    info, tensors = golden_data
    assert_close(torch.tensor([math.radians(info["elevation_deg"])]), tensors["input_elevation"])


def test_training_images_are_composited_and_cut_as_officially(golden_data):
    _, tensors = golden_data
    image = training_image(rearrange(tensors["train_rgba_crop"], "h w c -> c h w").float() / 255)
    image = rearrange(image, "c h w -> h w c")
    assert torch.equal((image * 255).round().to(torch.uint8), tensors["train_composited_crop"])
    assert_close(image * 2 - 1, tensors["train_tensor_crop"], atol=1e-6, rtol=0)
