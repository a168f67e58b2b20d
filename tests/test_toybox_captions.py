"""Captions of the grammar are read exactly, whatever they say."""

import numpy as np
import pytest

from core.data.toybox_captions import ARRANGEMENTS, KINDS, labels, parse, places, vocabulary, wearers
from core.errors import BadData
from data_tools.toybox.grammar import sample_object


def test_a_caption_names_exactly_the_parts_that_the_grammar_made():
    for seed in range(60):
        toy = sample_object(np.random.default_rng(seed))
        found = parse(toy.caption)
        assert found.part == {f"{part.color} {part.kind}" for part in toy.parts}
        assert found.shape == {part.kind for part in toy.parts}
        body, worn = toy.parts[0], wearers(toy.caption)
        paint = {body.front: (body.kind, False)} if body.front else {}
        assert worn == paint | {part.color: (part.kind, True) for part in toy.parts}
        assert found.color == {part.color for part in toy.parts} | {part.front for part in toy.parts if part.front}


def test_every_arrangement_is_told_by_its_own_words():
    said = {
        "a red cube on top of a blue cone": {"on top"},
        "a tall red cube with an orange front": {"painted front"},
        "a red cube, standing on a flat blue box": {"on a slab"},
        "a red torus, on four blue box legs": {"on legs"},
        "a red capsule, with a blue torus around its middle": {"belt"},
        "a red cube, with two small blue spheres on its front": {"two eyes"},
        "a red cube, with two small blue tori on its sides": {"two arms"},
        "a red cube, with a small blue cone on its left side and a small lime cube on its back": {"small part"},
        "a red cube, with a small blue cone in front of it": {"beside"},
        "a red cube, with a ring of three orange tori around it": set(),
    }
    assert {caption: set(parse(caption).arrangement) for caption in said} == said
    assert set().union(*said.values()) == set(ARRANGEMENTS)


def test_labels_stand_in_the_order_of_the_vocabulary():
    words = vocabulary()
    (row,) = labels(["A red rounded box on top of a cyan torus with a gray front"])
    assert {words[place] for place in row.nonzero().flatten().tolist()} == {
        "color: red", "color: cyan", "color: gray", "shape: rounded box", "shape: torus", "part: red rounded box",
        "part: cyan torus", "arrangement: on top", "arrangement: painted front",
    }  # fmt: skip
    assert sorted(place for kind in KINDS for place in places(kind)) == list(range(len(words)))


@pytest.mark.parametrize("caption", ["an astronaut riding a horse", "", "a red, cube"])
def test_a_sentence_without_parts_is_no_toybox_caption(caption):
    with pytest.raises(BadData, match="names no part"):
        parse(caption)
