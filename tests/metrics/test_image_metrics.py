import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from core.errors import BadImage
from core.metrics.images import (
    PSNR_CAP,
    flip,
    identical,
    mask_iou,
    psnr,
    psnr_of_all,
    ssim,
    ssim_data_range,
    ssim_range_of_all,
)

SCORES = {"psnr": psnr, "ssim": ssim, "ssim_data_range": ssim_data_range, "flip": flip}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_that_of_the_formula():
    target = noise(3, 16, 16) * 0.5
    assert_close(psnr(target + 0.1, target).item(), 20.0, atol=1e-4, rtol=0)


def test_identical_images_score_the_cap_and_are_flagged():
    images = noise(3, 3, 16, 16)
    others = images.clone()
    others[1, 0, 0, 0] = (others[1, 0, 0, 0] + 0.5) % 1
    assert psnr(images, others)[[0, 2]].eq(PSNR_CAP).all() and psnr(images, others)[1] < PSNR_CAP
    assert identical(images, others).tolist() == [True, False, True]
    assert_close(ssim(images, images), torch.ones(3).double()) and flip(images, images).eq(0).all()


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores_are_one_per_image_and_independent_of_the_batch(score):
    a, b = noise(2, 3, 3, 16, 16), noise(2, 3, 3, 16, 16, seed=1)
    scores = score(a, b)
    assert scores.shape == (2, 3) and scores.dtype == torch.float64
    assert_close(scores[1, 2], score(a[1, 2], b[1, 2]))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_more_noise_is_worse(score, seed):
    target = torch.nn.functional.interpolate(noise(1, 3, 5, 5, seed=seed), 24, mode="bilinear")
    noises = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    worse, better = (score((target + s * noises).clamp(0, 1), target) for s in (0.2, 0.05))
    assert (worse > better) == (score is flip)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("values", [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.25)])
def test_constant_images_have_finite_scores(score, values):
    result = score(torch.full((3, 16, 16), values[0]), torch.full((3, 16, 16), values[1]))
    best = {psnr: PSNR_CAP, flip: 0.0}.get(score, 1.0)
    assert torch.isfinite(result) and (values[0] == values[1]) == (result.item() == pytest.approx(best, abs=1e-6))


@pytest.mark.parametrize("score", [*SCORES.values(), identical], ids=[*SCORES, "identical"])
def test_what_cannot_be_compared_is_refused(score):
    good = noise(3, 16, 16)
    for words, other in {
        "different shapes": noise(3, 16, 17),
        "expected RGB": noise(4, 16, 16),
        "NaN": good * math.nan,
        "expected \\[0, 1\\]": good * 255,
    }.items():
        with pytest.raises(BadImage, match=words):
            score(other, other if words == "expected RGB" else good)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(BadImage, match="window"):
        ssim(noise(3, 10, 10), noise(3, 10, 10))


def test_the_two_readings_of_ssim_differ_on_faint_images_only():
    a, b = noise(3, 32, 32), noise(3, 32, 32, seed=1)
    assert_close(ssim(a, b), ssim_data_range(a, b), atol=1e-3, rtol=0)
    assert ssim(a * 0.1, b * 0.1) > ssim_data_range(a * 0.1, b * 0.1) + 0.05


def test_masks_overlap_by_intersection_over_union():
    a, b = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    a[0, :2], b[0, 1:3], a[1] = 1, 1, 1
    assert mask_iou(a, b).tolist() == pytest.approx([1 / 3, 0, 1])
    with pytest.raises(BadImage):
        mask_iou(a, b[:2])


def test_scores_of_all_images_together_are_those_of_the_formulas():
    target = noise(2, 3, 16, 16) * 0.5
    made = target.clone()
    made[0] += 0.1
    # One mean squared error over both images, of which the second is equal: 0.01 / 2.
    assert_close(
        psnr_of_all(made, target), torch.tensor([-10 * math.log10(0.005)], dtype=torch.float64), atol=1e-4, rtol=0
    )
    faint = torch.stack([target[0] * 0.1, target[1]])
    assert_close(ssim_range_of_all(faint, faint), torch.ones(2).double())
    shifted = torch.stack([faint[0] + 0.02 * noise(3, 16, 16, seed=3), faint[1]])
    alone, together = ssim_data_range(shifted, faint)[0], ssim_range_of_all(shifted, faint)[0]
    assert together > alone + 0.01  # a faint image is judged by the range of all
