"""The bundled Zero-1-to-3 toybox weights are worth what their card says."""

import json

import pytest

from core.models.bundled import WEIGHTS
from projects.viewfusion import predict
from tests.projects.rescored import rescored

CARD = json.loads((WEIGHTS / "viewfusion_toybox" / "card.json").read_text())
OBJECTS = 2


def test_by_its_card_more_images_are_better_and_fusion_beats_single_references():
    """Of the paper's claims those that hold at this scale; projects/viewfusion/README.md tells the others."""
    found = {name: scores["PSNR (dB)"]["mean"] for name, scores in CARD["measured"].items()}
    assert found["ViewFusion"] < found["ViewFusion, 2 images"] < found["ViewFusion, 3 images"]
    assert found["ViewFusion"] > max(found[name] for name in ("standard autoregression", "stochastic conditioning"))
    assert all(scores["scored"] == "30 of 30" for scores in CARD["measured"].values())


@pytest.mark.slow
def test_the_bundled_weights_score_on_the_first_objects_what_their_card_says(tmp_path):
    """The card's scores are means of the seeds 1, 2 and 3."""
    given = ["+experiment=viewfusion/toybox", "fusion=zero123"]
    found = rescored(tmp_path, predict.main, given, protocol="toybox", objects=OBJECTS)
    for name, scores in found.items():
        assert scores["PSNR (dB)"] == pytest.approx(CARD["objects"][name]["PSNR (dB)"], abs=0.1), name
