"""What is made from captions: which true views it is compared with, and what the network's answers are counted as."""

import pytest
import torch
from torch import nn

from core.cameras.rigs import rig
from core.config import instantiate
from core.data.toybox import open_pack
from core.data.toybox_captions import parse, vocabulary
from core.errors import BadCheckpoint, BadConfig, BadData, BadViewSet
from core.metrics.images import mask_iou
from core.models.attributes import AttributeNet, attribute_net, shown
from core.views import read_views, write_views
from data_tools.toybox.make import Recipe, make
from projects.benchmark import baselines
from projects.benchmark.captioned import write_captioned
from projects.benchmark.evaluation import evaluate
from projects.benchmark.pictures import Pictures
from projects.benchmark.prompts import (
    AttributeAgreement,
    NamedAttributes,
    colour_overlap,
    janus_excess,
    turned,
    turned_iou,
)
from tests.projects.benchmark.test_protocols import config

SIZE = 24
CAPTION = "a red cube on top of a blue sphere"


def bars(shift: int) -> Pictures:
    """A ring of 16 views of which each has an own silhouette, the first that of number `shift`."""
    masks = torch.zeros(16, SIZE, SIZE)
    for view in range(16):
        masks[view, : 2 + (view + shift) % 16] = 1
    images = 1 - masks[:, None].expand(-1, 3, -1, -1) * torch.linspace(0.2, 0.8, 16).roll(-shift)[:, None, None, None]
    return Pictures("bars", range(16), images.contiguous(), masks, rig("syncdreamer", size=SIZE))


def test_the_best_turn_finds_a_turned_object_and_leaves_one_that_lies_right():
    true = bars(0)
    for shift in (0, 5, 12):
        made = bars(shift).chosen([0, 4, 8, 12])
        assert turned_iou(made, true) == 1
        assert turned(made, true, shift * torch.pi / 8) == [(place + shift) % 16 for place in (0, 4, 8, 12)]
        as_it_lies = float(mask_iou(made.masks, true.masks[[0, 4, 8, 12]]).mean())
        assert as_it_lies == 1 if shift == 0 else as_it_lies < 0.8


def test_a_turn_that_the_truth_does_not_show_is_refused():
    with pytest.raises(BadViewSet, match="render it from a ring"):
        turned_iou(bars(0).chosen([0, 4, 8, 12]), bars(0).chosen([0, 4, 8, 12]))


def test_colours_and_backs_are_compared_with_the_true_views_from_the_same_cameras():
    true, made = bars(0), bars(0).chosen([12, 0, 8, 4])
    assert colour_overlap(made, true) == pytest.approx(1) and janus_excess(made, true) == 0
    same = bars(0).chosen([0, 0, 0, 0])
    repeated = Pictures("one", range(4), same.images, same.masks, made.cameras)
    assert colour_overlap(repeated, true) < 0.7 and janus_excess(repeated, true) > 0.1
    assert janus_excess(true.chosen([0, 4, 8, 12]), Pictures("t", range(4), same.images, same.masks, made.cameras)) == 0


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> str:
    """A network that says of a view: it is red; of a dark one: there is a cube, too, and a red cube."""
    torch.manual_seed(0)
    net = AttributeNet(attributes=vocabulary(), image_size=SIZE, widths=[8], strides=[2])
    nn.init.zeros_(net.head.weight)
    nn.init.constant_(net.head.bias, -20.0)
    convolution, normalisation = net.layers[0], net.layers[1]
    nn.init.zeros_(normalisation.weight)
    nn.init.zeros_(normalisation.bias)
    folder = tmp_path_factory.mktemp("judge")
    net.head.bias.data[vocabulary().index("color: red")] = 20.0
    # Channel 0 is large where pixels are dark.
    nn.init.constant_(convolution.weight, -1.0)
    normalisation.weight.data[0] = 1.0
    normalisation.running_mean.fill_(0.0)
    normalisation.running_var.fill_(1.0)
    for name in ("shape: cube", "part: red cube"):
        net.head.weight.data[vocabulary().index(name), 0] = 1.0
    net.save_pretrained(folder)
    return str(folder)


def pictures(*levels: float) -> torch.Tensor:
    return torch.stack([torch.full((3, SIZE, SIZE), level) for level in levels])


def test_pooled_attributes_are_those_that_some_view_shows_and_single_views_are_counted_each(judge):
    views, captions = pictures(1.0, 1.0, 1.0, 0.0), ["a lime box", CAPTION]
    named = sorted(parse(CAPTION).names())
    assert len(named) == 7

    def score(**options) -> list[float]:
        return NamedAttributes(folder=judge, **options)(views, 1, captions).tolist()

    assert score(score="recall") == pytest.approx([3 / 7])
    assert score(score="precision") == [1.0]
    assert score(score="recall", pooled=False) == pytest.approx([1 / 7, 1 / 7, 1 / 7, 3 / 7])
    assert score(score="f1", kind="color") == pytest.approx([2 * 1 / (1 + 2)])
    assert score(score="f1", kind="shape") == pytest.approx([2 * 1 / (1 + 2)])
    assert score(score="recall", kind="arrangement") == [0.0]
    assert NamedAttributes(folder=judge, score="precision")(views, 0, captions).tolist() == [0.0]


def test_views_that_show_other_attributes_agree_less(judge):
    def agreement(*levels: float) -> float:
        masks = torch.ones(len(levels), SIZE, SIZE)
        return AttributeAgreement(folder=judge)(Pictures("x", range(len(levels)), pictures(*levels), masks))

    assert agreement(1.0, 1.0) == 1 and agreement(1.0, 0.0) == pytest.approx(1 / 3)


def test_an_object_has_what_its_best_view_shows():
    logits = torch.tensor([[0.0, -30.0, 30.0], [1.0, -30.0, -30.0]])
    assert torch.allclose(shown(logits), torch.sigmoid(torch.tensor([1.0, -30.0, 30.0])))


def test_a_network_for_other_attributes_is_refused(tmp_path):
    AttributeNet(attributes=["color: red", "shape: egg"], widths=[8], strides=[2]).save_pretrained(tmp_path)
    with pytest.raises(BadCheckpoint, match="2 other attributes"):
        attribute_net(tmp_path)


@pytest.fixture(scope="module")
def toybox(tmp_path_factory):
    root = tmp_path_factory.mktemp("toybox")
    list(make(root, Recipe(supersample=1), {"train": 0, "val": 0, "test": 2}, num_workers=0))
    return root


def test_answers_to_captions_are_the_truth_what_its_latents_keep_and_another_object(toybox, tmp_path):
    write_captioned(toybox, "test", tmp_path / "out")
    pack = open_pack(toybox, "test")
    for number, uid in enumerate(pack.uids):
        true = read_views(toybox / "test" / uid / "target")
        made = {name: read_views(tmp_path / "out" / name / uid) for name in ("truth", "autoencoded", "another-object")}
        assert torch.equal(made["truth"].images, true.images[[0, 4, 8, 12]])
        other = read_views(toybox / "test" / pack.uids[1 - number] / "target")
        assert torch.equal(made["another-object"].images, other.images[[0, 4, 8, 12]])
        assert 0 < float((made["autoencoded"].rgb() - made["truth"].rgb()).abs().mean()) < 0.03
        for views in made.values():
            assert views.caption == pack.captions[number]
            assert torch.allclose(views.cameras.poses, true.cameras[[0, 4, 8, 12]].poses, atol=1e-6)


def test_a_toybox_with_one_object_has_no_other_one(toybox, tmp_path):
    list(make(tmp_path / "one", Recipe(supersample=1), {"train": 0, "val": 0, "test": 1}, num_workers=0))
    with pytest.raises(BadData, match="no other"):
        write_captioned(tmp_path / "one", "test", tmp_path / "out")


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"task": "captions", "input_view": 3}, "input_view=3"), ({"place": "{object}/views"}, "place="),
     ({"task": "caption"}, "task=")],
)  # fmt: skip
def test_settings_that_the_chosen_answers_do_not_read_are_refused(changed, named):
    with pytest.raises(BadConfig, match=named):
        baselines.check({"task": "views", "input_view": 0, "place": "{object}"} | changed)


@pytest.mark.slow
def test_the_protocol_scores_true_views_at_their_ceiling_and_reads_no_view_between(toybox, tmp_path):
    for uid in open_pack(toybox, "test").uids:
        views = read_views(toybox / "test" / uid / "target")
        write_views(tmp_path / "right" / uid, views)  # all 16, of which 4 are looked at
    cfg = config("toybox_text", f"gt={toybox / 'test'}", f"pred={tmp_path / 'right'}", f"out={tmp_path / 'out'}",
                 "protocol.num_objects=2")  # fmt: skip
    found = evaluate(cfg)
    for outcome in found["objects"]["right"].values():
        scores = outcome["scores"]
        assert scores["silhouette IoU"] == scores["IoU, best turn"] == 1 and scores["Janus excess"] == 0
        assert scores["colour overlap"] == pytest.approx(1)
        assert len(outcome["per_view"]["silhouette IoU"]) == len(outcome["per_view"]["precision per view"]) == 4
    assert "model.safetensors" in str(found["weights"]["recall"]) and list(instantiate(cfg.protocol).sets)
