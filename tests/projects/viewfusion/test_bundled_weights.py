"""The bundled Zero-1-to-3 toybox weights are worth what their card says."""

import json

import pytest

from core.models.bundled import WEIGHTS
from data_tools.toybox.make import Recipe, make
from projects.benchmark import evaluate
from projects.viewfusion import predict

CARD = json.loads((WEIGHTS / "viewfusion_toybox" / "card.json").read_text())
OBJECTS = 2


def test_the_card_tells_what_the_weights_cost_and_how_they_were_measured():
    assert 0 < CARD["cpu_seconds"] <= 7200 and "projects.viewfusion.train" in CARD["command"]
    assert CARD["data_sha256"] and CARD["protocol"] and "projects.viewfusion.predict" in CARD["measured_with"]


@pytest.mark.slow
def test_the_bundled_weights_score_on_the_first_objects_what_their_card_says(tmp_path):
    root, out, seed = tmp_path / "toybox", tmp_path / "scores", CARD["measured_with"].split("seed=")[1].split()[0]
    list(make(root, Recipe(), {"train": 1, "val": 0, "test": OBJECTS}, num_workers=0))
    predict.main(["+experiment=viewfusion/toybox", "fusion=zero123", f"seed={seed}", f"root={root}",
                  f"out={tmp_path / 'views'}", f"num_objects={OBJECTS}"])  # fmt: skip
    evaluate.main(["protocol=toybox", f"protocol.num_objects={OBJECTS}", f"pred={tmp_path / 'views'}",
                   f"gt={root / 'test'}", f"out={out}"])  # fmt: skip
    found = json.loads((out / "scores.json").read_text())
    [outcomes] = found["objects"].values()
    assert len(outcomes) == OBJECTS
    for name, outcome in outcomes.items():
        assert outcome["scores"]["PSNR (dB)"] == pytest.approx(CARD["objects"][name]["PSNR (dB)"], abs=0.1), name
