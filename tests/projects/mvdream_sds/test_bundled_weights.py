"""The bundled MVDream toybox weights are worth what their card says."""

import json

import pytest

from core.models.bundled import WEIGHTS
from projects.mvdream_sds import predict
from tests.projects.rescored import rescored

CARD = json.loads((WEIGHTS / "mvdream_toybox" / "card.json").read_text())
OBJECTS = 2


def test_by_its_card_the_views_show_their_caption_better_than_another_object_does():
    """And worse than the true views; projects/mvdream_sds/README.md has the table."""
    for name in ("silhouette IoU", "colour overlap", "recall", "precision", "colours F1"):
        other, ours, true = (CARD["measured"][row][name] for row in ("another object", "MVDream", "the true views"))
        assert other["high"] < ours["low"] and ours["high"] < true["mean"], name
    assert all(scores["scored"] == "30 of 30" for scores in CARD["measured"].values())


@pytest.mark.slow
def test_the_bundled_weights_score_on_the_first_objects_what_their_card_says(tmp_path):
    """The card's scores are means of the seeds 1, 2 and 3."""
    given = ["+experiment=mvdream_sds/views_toybox"]
    found = rescored(tmp_path, predict.main, given, protocol="toybox_text", objects=OBJECTS)
    for name, scores in found.items():
        for measure in ("silhouette IoU", "colour overlap"):
            assert scores[measure] == pytest.approx(CARD["objects"][name][measure], abs=0.02), name
