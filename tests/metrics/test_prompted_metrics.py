"""Attributes, colours and the Janus probe: scores worked out by hand, and their undefined cases."""

import math

import pytest
import torch

from core.cameras.rigs import rig
from core.errors import BadImage, BadViewSet
from core.metrics.attributes import agreement, jaccard
from core.metrics.colours import colour_overlap
from core.metrics.images import flip
from core.metrics.janus import back_likeness, janus, opposite
from core.metrics.summary import metric_of

FOUND = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
NAMED = torch.tensor([[1, 0, 0, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()


@pytest.mark.parametrize(
    ("score", "expected"), [("recall", [1 / 2, 0, 1]), ("precision", [1 / 3, 1, 1]), ("f1", [2 / 5, 0, 1])]
)
def test_recall_precision_and_f1_count_as_by_hand_and_are_defined_for_empty_sets(score, expected):
    assert agreement(FOUND, NAMED, score).tolist() == pytest.approx(expected)


def test_views_agree_by_what_they_share_of_all_they_show():
    views = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
    assert float(jaccard(views)) == pytest.approx((1 / 2 + 0 + 0 + 0 + 0 + 1) / 6)


def painted(*colours: tuple[float, float, float]) -> torch.Tensor:
    """A view with a stripe of each colour."""
    return torch.tensor(colours).float().T[None, :, None, :].expand(1, 3, 8, -1).repeat_interleave(4, dim=-1)


def test_colours_overlap_by_their_shares_wherever_they_are_and_whatever_the_background():
    red, blue, green = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
    one, other = painted(red, red, blue, green), painted(blue, red, red, red)
    everywhere = torch.ones(1, 8, 16)
    assert colour_overlap(one, everywhere, one.flip(-1), everywhere) == pytest.approx(1)
    assert colour_overlap(one, everywhere, other, everywhere) == pytest.approx(0.5 + 0.25)
    mask = everywhere.clone()
    mask[..., 12:] = 0  # without the green stripe
    assert colour_overlap(one, mask, painted(red, red, blue), torch.ones(1, 8, 12)) == pytest.approx(1)
    assert colour_overlap(one, everywhere * 0, other, everywhere) == 0


def test_a_slightly_other_colour_overlaps_nearly_also_across_a_bins_edge():
    mask = torch.ones(1, 8, 4)
    shares = [colour_overlap(painted((x,) * 3), mask, painted((x + 0.05, x, x)), mask) for x in (0.0, 0.1, 0.225, 0.6)]
    assert shares == pytest.approx([0.8, 0.8, 0.9, 0.8], abs=1e-6)  # bins are a quarter apart


def test_colours_that_are_not_finite_are_refused():
    with pytest.raises(BadImage, match="NaN"):
        colour_overlap(painted((math.nan, 0, 0)), torch.ones(1, 8, 4), painted((0, 0, 0)), torch.ones(1, 8, 4))


def test_a_face_on_both_sides_is_told_from_a_plain_back():
    face, plain, mask = torch.ones(3, 32, 32), torch.ones(3, 32, 32), torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    for image in (face, plain):
        image[:, 8:24, 8:24] = torch.tensor([0.2, 0.4, 0.8])[:, None, None]
    face[:, 12:15, 11:14] = face[:, 12:15, 18:21] = 0.0
    assert back_likeness(face, face, mask, mask) == 1
    assert back_likeness(face, plain, mask, mask) < 0.95
    # The white around the object counts for nothing: FLIP over all pixels would have hidden three quarters of it.
    assert 1 - back_likeness(face, plain, mask, mask) > 2 * float(flip(plain, face))
    assert back_likeness(face, plain, mask * 0, mask * 0) == 1


def test_every_view_is_compared_with_the_one_from_the_opposite_side():
    cameras = rig("syncdreamer", size=32)
    assert opposite(cameras, 1.0) == [(view, view + 8) for view in range(8)]
    images, masks = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.ones(4, 32, 32)
    images[2] = images[0]
    found = janus(images, masks, cameras[[0, 4, 8, 12]])
    assert found[0] == 1 and found[1] < 0.9
    with pytest.raises(BadViewSet, match="opposite"):
        janus(images[:2], masks[:2], cameras[[0, 4]])


@pytest.mark.parametrize(
    ("column", "arrow"),
    [("colour overlap", "↑"), ("parts F1", "↑"), ("precision per view", "↑"), ("recall", "↑"),
     ("agreement of views", "↑"), ("Janus excess", "↓"), ("IoU, best turn", "↑")],
)  # fmt: skip
def test_a_table_knows_which_values_are_better(column, arrow):
    assert metric_of(column).arrow == arrow
