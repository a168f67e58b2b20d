"""The Janus probe: high where the back repeats the front, low where it does not."""

import math

import torch

from projects.mvdream_sds.scene.janus import front_back_similarity


def views(*pictures: torch.Tensor) -> torch.Tensor:
    """RGBA views of a disc with these pictures on it."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    disc = ((x - 11.5) ** 2 + (y - 11.5) ** 2 < 81).float()
    return torch.stack([torch.cat([picture, disc[None]]) for picture in pictures])


def test_a_back_that_repeats_the_front_scores_1_and_another_one_far_less():
    draw = torch.Generator().manual_seed(0)
    face, side, back = torch.rand(3, 3, 24, 24, generator=draw).unbind()
    assert front_back_similarity(views(face, side, face, side)) > 0.999
    assert front_back_similarity(views(face, side, back, side)) < 0.7
    assert front_back_similarity(views(face, side, back, face)) < 0.4


def test_what_lies_around_the_object_does_not_count():
    face, back = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)).unbind()
    plain = front_back_similarity(views(face, back))
    outside = views(face, back)[:, 3:] == 0
    changed = torch.where(outside, 0.0, views(face, back))
    assert math.isclose(front_back_similarity(changed), plain, abs_tol=1e-6)


def test_without_an_object_there_is_no_score():
    assert math.isnan(front_back_similarity(torch.zeros(2, 4, 24, 24)))
