"""The bundled toybox weights are worth what their card says, and beat the answers that need no model."""

import json

import pytest

from core.metrics.summary import metric_of
from core.models.bundled import WEIGHTS
from data_tools.toybox.make import Recipe, make
from projects.benchmark import baselines, evaluate
from projects.syncdreamer import predict

CARD = json.loads((WEIGHTS / "syncdreamer_toybox" / "card.json").read_text())
OBJECTS = 3


def test_by_its_card_the_model_beats_every_answer_without_one_beyond_the_intervals():
    model, *trivial = CARD["measured"]
    ours = CARD["measured"][model]
    assert model == "SyncDreamer" and len(trivial) == 3 and ours["scored"] == "30 of 30"
    columns = [column for column in ours if column != "scored"]
    assert columns == ["PSNR (dB)", "SSIM", "FLIP"]
    for column in columns:
        lower = metric_of(column).lower_is_better
        for other in trivial:
            theirs = CARD["measured"][other][column]
            better = ours[column]["high"] < theirs["mean"] if lower else ours[column]["low"] > theirs["mean"]
            assert better, (column, other)


@pytest.mark.slow
def test_the_bundled_weights_score_on_the_first_objects_what_their_card_says(tmp_path):
    root, out = tmp_path / "toybox", tmp_path / "scores"
    list(make(root, Recipe(), {"train": 1, "val": 0, "test": OBJECTS}, num_workers=0))
    predict.main(["+experiment=syncdreamer/toybox", f"root={root}", f"out={tmp_path / 'syncdreamer'}",
                  f"num_objects={OBJECTS}"])  # fmt: skip
    baselines.main([f"root={root}", f"out={tmp_path / 'trivial'}"])
    methods = f"pred={{SyncDreamer: {tmp_path / 'syncdreamer'}, repeated: {tmp_path / 'trivial' / 'input-repeated'}}}"
    given = ["protocol=toybox", f"protocol.num_objects={OBJECTS}"]
    evaluate.main([methods, f"gt={root / 'test'}", *given, f"out={out}"])
    found = json.loads((out / "scores.json").read_text())
    for name, outcome in found["objects"]["SyncDreamer"].items():
        assert outcome["scores"]["PSNR (dB)"] == pytest.approx(CARD["objects"][name]["PSNR (dB)"], abs=0.1), name
    ours, repeated = (found["summary"][method] for method in ("SyncDreamer", "repeated"))
    assert ours["PSNR (dB)"]["mean"] > repeated["PSNR (dB)"]["mean"] and ours["FLIP"]["mean"] < repeated["FLIP"]["mean"]
