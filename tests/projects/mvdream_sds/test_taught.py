"""What only a training reads is dropped where whole weights are taken, and a line says so."""

import pytest

from core.config import check_targets
from core.errors import BadConfig
from projects.mvdream_sds import generate, train, train_views
from projects.mvdream_sds.scene.run_settings import distillation
from projects.mvdream_sds.settings import DREAMBOOTH, SYSTEM
from projects.mvdream_sds.taught import without_training
from tests.projects.untrained import settings_of

TAUGHT = "+experiment=mvdream_sds/dreambooth_toybox"


def test_a_model_that_was_taught_a_subject_is_read_like_any_other():
    given, lines = settings_of(generate.main.program, [TAUGHT, "prompt=a red cone"]), []
    assert given["model"]["_target_"] == DREAMBOOTH and given["model"]["start"] == "mvdream_toybox"
    config = without_training(given, lines.append)
    assert config["model"]["_target_"] == SYSTEM and config["model"]["start"] is None
    check_targets({"model": config["model"]})  # none of its settings is the other class's
    assert [line.split("=")[0] for line in lines] == ["model.start", "model._target_"]


def test_score_distillation_reads_such_a_model_too_and_says_what_it_does_not_read():
    given, lines = settings_of(train.main.program, [TAUGHT, "prompt=x", "model.lora={rank: 4}"]), []
    teacher = distillation(given)["model"]["teacher"]
    assert teacher == {key: given["model"][key] for key in ("denoiser", "latents", "text_encoder")} | {
        "_target_": SYSTEM
    }
    without_training(given, lines.append)
    assert [line.split()[0].split("=")[0] for line in lines] == ["model.start", "model.lora", "model._target_"]


def test_adapters_of_nothing_are_refused_before_anything_is_built():
    overlays = "+experiment=[mvdream_sds/views_toybox,mvdream_sds/lora]"
    given = settings_of(train_views.main.program, [overlays, "model.start=mvdream_toybox"])
    with pytest.raises(BadConfig, match=r"model.lora learns adapters .* give its weights, such as model.start="):
        train_views.check(given | {"model": given["model"] | {"start": None}})
