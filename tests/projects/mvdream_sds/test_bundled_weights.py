"""The bundled MVDream toybox weights are worth what their card says."""

import json

import pytest

from core.models.bundled import WEIGHTS
from data_tools.toybox.make import Recipe, make
from projects.benchmark import evaluate
from projects.mvdream_sds import predict

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
    root, out = tmp_path / "toybox", tmp_path / "scores"
    list(make(root, Recipe(), {"train": 1, "val": 0, "test": OBJECTS}, num_workers=0))
    made = [str(tmp_path / f"views-{seed}") for seed in (1, 2, 3)]
    for seed, folder in enumerate(made, start=1):
        predict.main(["+experiment=mvdream_sds/views_toybox", f"seed={seed}", f"root={root}", f"out={folder}",
                      f"num_objects={OBJECTS}"])  # fmt: skip
    evaluate.main(["protocol=toybox_text", f"protocol.num_objects={OBJECTS}", f"pred={{MVDream: [{','.join(made)}]}}",
                   f"gt={root / 'test'}", f"out={out}"])  # fmt: skip
    outcomes = json.loads((out / "scores.json").read_text())["objects"]["MVDream"]
    assert len(outcomes) == OBJECTS
    for name, outcome in outcomes.items():
        for measure in ("silhouette IoU", "colour overlap"):
            assert outcome["scores"][measure] == pytest.approx(CARD["objects"][name][measure], abs=0.02), name
