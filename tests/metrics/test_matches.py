"""Agreement of views without the truth: true views score better than disturbed ones; nothing scores nothing."""

import pytest
import torch

from core.cameras.rigs import rig
from core.errors import BadViewSet
from core.metrics.halves import half_agreement
from core.metrics.matches import neighbours, reprojection_error, sift_matches
from tests.metrics.textured import textured_sphere


@pytest.fixture(scope="module")
def views():
    return textured_sphere()


def test_neighbours_close_the_circle_and_two_views_are_one_pair():
    assert neighbours(3) == [(0, 1), (1, 2), (2, 0)] and neighbours(2) == [(0, 1)]
    with pytest.raises(BadViewSet, match="neighbour"):
        neighbours(1)


def test_views_of_one_object_have_matches_and_of_different_ones_fewer_and_of_nothing_none(views):
    true = sift_matches(views.rgb())
    other = textured_sphere(seed=1).rgb()
    mixed = torch.where(torch.arange(len(views))[:, None, None, None] % 2 == 0, views.rgb(), other)
    assert true.float().mean() > 20 and sift_matches(mixed).float().mean() < true.float().mean() / 2
    assert sift_matches(torch.ones_like(views.rgb())).tolist() == [0] * len(views)
    same = sift_matches(views.rgb()[:1].repeat(2, 1, 1, 1))
    assert same.shape == (1,) and same > 3 * true.float().mean() / 2
    blurred = torch.nn.functional.avg_pool2d(views.rgb(), 9, 1, 4)
    assert sift_matches(blurred).float().mean() < true.float().mean()


def test_matches_of_true_cameras_meet_in_a_point_and_of_wrong_ones_do_not(views):
    images = views.rgb()
    true = reprojection_error(images, views.cameras)
    wrong = reprojection_error(images, rig("orbit", size=128, num_views=16, elevation_deg=60.0))
    assert len(true) == 16 and true.median() < 0.3 and wrong.median() > 4 * true.median()
    with pytest.raises(BadViewSet, match="no two neighbouring views"):
        reprojection_error(torch.ones_like(images), views.cameras)


def test_halves_of_true_views_agree_and_of_displaced_views_less(views):
    true = half_agreement(views.images[:, 3], views.cameras)
    apart = views.images[:, 3].clone()
    apart[::2] = apart[::2].roll(12, dims=-1)
    smaller = views.images[:, 3].clone()
    smaller[::2] = textured_sphere(radius=0.3).images[::2, 3]
    assert true > 0.9 and half_agreement(apart, views.cameras) < true - 0.05
    # Balls of radius 0.3 and 0.45: the smaller is inside the larger.
    assert half_agreement(smaller, views.cameras) == pytest.approx((0.3 / 0.45) ** 3, abs=0.06)


def test_halves_of_too_few_views_or_without_silhouettes_are_refused(views):
    with pytest.raises(BadViewSet, match="two halves"):
        half_agreement(views.images[:3, 3], views.cameras[slice(0, 3)])
    with pytest.raises(BadViewSet, match="share no space"):
        half_agreement(views.images[:, 3] * 0, views.cameras)
