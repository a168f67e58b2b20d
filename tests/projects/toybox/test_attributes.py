"""The judge of attributes: what it learns from, that it trains and is published, and how good the bundled one is."""

import json
from itertools import pairwise

import pytest
import torch

from core.data.toybox import open_pack
from core.data.toybox_captions import COLORS, SHAPES, labels, places, vocabulary
from core.metrics.attributes import agreement
from core.models.attributes import AttributeNet, attribute_net, shown
from core.models.bundled import WEIGHTS
from data_tools.toybox.make import Recipe, make
from projects.toybox.attributes import AttributeSystem, ToyboxQuarters, measure, ring
from projects.toybox.surfaces import NOTHING, surfaces
from projects.toybox.train import main


@pytest.fixture(scope="module")
def toybox(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("data")
    list(make(root, Recipe(seed=0), {"train": 2, "val": 1, "test": 4}, num_workers=0))
    return str(root)


def system(**options) -> AttributeSystem:
    torch.manual_seed(0)
    net = AttributeNet(attributes=vocabulary(), image_size=32, widths=[16], strides=[2])
    return AttributeSystem(
        net=net, **{"place_weight": 1.0, "zoom": 0.0, "blur": 0.0, "noise": 0.0, "light": 0.0} | options
    )


def test_items_are_four_views_a_quarter_apart_with_their_captions_attributes(toybox):
    items, pack = ToyboxQuarters(root=toybox, split="train"), open_pack(toybox, "train")
    everything = pack.pixels(1, list(range(32)))
    chosen = []
    for seed in range(8):
        item = items.__getitem__(1, torch.Generator().manual_seed(seed))
        assert torch.equal(item["labels"], labels([pack.captions[1]])[0])
        found = [next(n for n in range(32) if torch.equal(view, everything[n])) for view in item["pixels"]]
        assert {(b - a) % 16 for a, b in pairwise(found)} == {4}
        chosen += found
    assert min(chosen) < 16 <= max(chosen)  # of both renderings


def test_arrangements_are_learnt_of_the_best_place_of_the_best_view_and_the_rest_of_places():
    judge, draws, at = system(place_weight=2.0).eval(), torch.Generator().manual_seed(1), places("arrangement")
    pixels = torch.rand(3, 4, 3, 32, 32, generator=draws) * 2 - 1
    named = torch.rand(3, len(vocabulary()), generator=draws) < 0.3
    nothing = torch.full((3, 4, 3, 32, 32), NOTHING)
    with torch.no_grad():
        found = judge.loss({"pixels": pixels, "labels": named, "surfaces": nothing}, torch.Generator())
        there = shown(judge.net(pixels.flatten(0, 1)).view(3, 4, -1)).double()[:, at]
    expected = -torch.where(named[:, at], there.log(), (1 - there).log()).sum(dim=-1).mean()
    assert float(found["arranged"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(found["loss"]) == pytest.approx(float(found["arranged"] + 2 * found["where"]), rel=1e-5)


def test_places_learn_what_they_have_enough_pixels_of():
    judge, kinds = system(), ("color", "shape", "part")
    surfaces = torch.full((1, 3, 32, 32), NOTHING)
    surfaces[0, :, 2:4, 2:5] = torch.tensor([2, 1, 19])[:, None, None]  # six pixels over four places of 2 x 2
    surfaces[0, :, 16:32, 16:32] = torch.tensor([5, 4, 49])[:, None, None]
    four = torch.full((1, 3, 32, 32), NOTHING)
    four[0, :, 8:12, 8] = 0
    right = torch.full((1, len(vocabulary()), 4, 4), -30.0)
    for kind, number in zip(kinds, (5, 4, 49), strict=True):
        right[0, places(kind)[number], 2:, 2:] = 30.0
    missing = right.clone()
    for kind, number in zip(kinds, (2, 1, 19), strict=True):
        right[0, places(kind)[number], 0, 0] = 30.0
    assert float(judge.place_loss(right, surfaces)) < 1e-6
    assert float(judge.place_loss(missing, surfaces)) == pytest.approx(3 * 30 / 16)
    assert float(judge.place_loss(torch.full_like(right, -30.0), four)) < 1e-6  # four pixels are too few


def test_a_pixel_shows_the_part_whose_colour_some_light_brings_nearest():
    caption = "a gray cube with a red front, with a small black cone on its back"
    worn = torch.tensor([COLORS["gray"], COLORS["red"], COLORS["black"]])
    view = torch.zeros(1, 4, 3, 5)
    for row, light in enumerate((0.45, 0.7, 0.95)):
        view[0, :3, row, :3] = light * worn.T
    view[0, 3, :, :3] = 1
    found = surfaces(view, caption)
    gray, red, black, cube, cone = 10, 0, 11, SHAPES.index("cube"), SHAPES.index("cone")
    assert found[0, 0].tolist() == [[gray, red, black, NOTHING, NOTHING]] * 3
    assert found[0, 1].tolist() == [[cube, cube, cone, NOTHING, NOTHING]] * 3
    assert found[0, 2].tolist() == [[gray * 9 + cube, NOTHING, black * 9 + cone, NOTHING, NOTHING]] * 3
    assert vocabulary()[places("part")[gray * 9 + cube]] == "part: gray cube"


def test_views_are_varied_as_asked_white_stays_white_and_surfaces_move_along():
    white, draws = torch.ones(4, 3, 32, 32), torch.Generator().manual_seed(0)
    nothing = torch.full((4, 3, 32, 32), NOTHING)

    def varied(pixels: torch.Tensor, surfaces: torch.Tensor = nothing, **options) -> tuple:
        return system(**options).varied(pixels, surfaces, draws)

    assert torch.equal(varied(white, zoom=0.2, blur=0.9, light=0.3)[0], white)
    assert 0 < float((varied(white, noise=0.1)[0] - white).abs().mean()) < 0.1
    half, marked = white.clone(), nothing.clone()
    half[..., :16], marked[..., :16] = -0.5, 7
    kept = varied(half)[0]  # mirrored or not
    assert all(torch.allclose(view, half[0]) or torch.allclose(view, half[0].flip(-1)) for view in kept)
    moved, surfaces = varied(half, marked, zoom=0.3)
    assert ((moved.amin(dim=1) < 0) == (surfaces[:, 0] == 7)).float().mean() > 0.97
    assert set(surfaces.unique().tolist()) == {NOTHING, 7} and not torch.equal(surfaces, marked)
    darker = varied(half, light=0.5)[0]
    assert len(darker.flatten(1).amin(dim=1).unique()) == 4 and torch.equal(darker.amax(dim=(1, 2, 3)), torch.ones(4))


def test_measures_are_per_view_by_majority_and_pooled():
    at = places("color")
    logits = torch.full((1, 4, len(vocabulary())), -20.0)
    named = torch.zeros(1, len(vocabulary()), dtype=torch.bool)
    named[0, at[0]] = named[0, at[1]] = True
    logits[0, :3, at[0]] = 20.0  # three of four views show the first, one the second
    logits[0, 3, at[1]] = 20.0
    found = measure(logits, named)
    assert found["view_color_f1"] == pytest.approx(2 / 3) and found["majority_color_f1"] == pytest.approx(2 / 3)
    assert found["pooled_color_f1"] == found["pooled_recall"] == found["pooled_precision"] == 1


@pytest.mark.slow
def test_the_judge_trains_and_is_published_with_a_card(toybox, tmp_path):
    quick = ["trainer.max_steps=2", "trainer.val_batches=1", "logger.tensorboard=false", "data.batch_size=2"]
    main(["+experiment=toybox/attributes", f"out={tmp_path}", f"data.root={toybox}", *quick])
    card = json.loads((tmp_path / "published" / "card.json").read_text())
    assert all(0 <= value <= 1 for value in card["measured"].values()) and len(card["measured"]) == 28
    assert set(card["files"]) == {"diffusion_pytorch_model.safetensors"}
    answers = attribute_net(tmp_path / "published")(open_pack(toybox, "test").pixels(0, ring()))
    assert answers.shape == (4, len(vocabulary())) and torch.isfinite(answers).all()


def test_the_bundled_judge_is_small_and_sees_held_out_objects(toybox):
    files = list((WEIGHTS / "toybox_attributes").rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) < 2**20
    test, net = open_pack(toybox, "test"), attribute_net("toybox_attributes")
    found = torch.stack([shown(net(test.pixels(number, ring()))) for number in range(4)]) > 0.5
    named = labels(test.captions)
    at = places("color")
    assert float(agreement(found[:, at], named[:, at], "f1").mean()) > 0.9
    own, other = (float(agreement(found, captions, "f1").mean()) for captions in (named, named.roll(1, dims=0)))
    assert own > 0.55 and own > other + 0.1  # the others are other objects' captions
