"""Weights by path or by name: a bundled file that is not the one its card names is refused."""

import importlib
import json
import re
import shlex
import shutil

import pytest
from transformers.utils import logging as transformers_logging

from core.command_line import parse_flags, prepare
from core.config import check_targets
from core.errors import BadCheckpoint, MissingWeights
from core.models import bundled
from core.models.bundled import WEIGHTS, bundled_names, image_encoder, latents, weights_file, weights_folder
from core.settings import precheck

# Whose programs trained the weights, and scored them on objects of the toybox.
SYSTEMS = {"syncdreamer_toybox": "syncdreamer", "viewfusion_toybox": "viewfusion", "mvdream_toybox": "mvdream_sds"}


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """A project's `weights/` that may be damaged."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(bundled, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_bundled_models_are_those_that_their_cards_describe():
    assert {*SYSTEMS, "toybox_clip", "toybox_vae"} <= set(bundled_names())
    for name in bundled_names():
        assert weights_folder(name) == WEIGHTS / name


@pytest.mark.parametrize("name", bundled_names())
def test_a_card_tells_the_cost_the_data_and_a_command_that_this_code_still_reads(name):
    card = json.loads((WEIGHTS / name / "card.json").read_text())
    assert 0 < card["cpu_seconds"] <= 7200 and card["data_sha256"] and card["measured"]
    assert sum(path.stat().st_size for path in (WEIGHTS / name).rglob("*")) < 12e6
    commands = [card["command"]]
    if name in SYSTEMS:
        assert re.fullmatch("[0-9a-f]{64}", card["protocol"]) and card["objects"]
        commands.append(card["measured_with"])
    for command in commands:
        python, dash_m, module, *arguments = shlex.split(command)
        assert (python, dash_m) == ("python", "-m")
        assert module.startswith(f"projects.{SYSTEMS.get(name, 'toybox')}.")
        program = importlib.import_module(module).main.program
        cfg, _ = precheck(program, parse_flags(prepare(arguments, program)))
        check_targets(cfg)


def test_weights_are_found_by_path_by_folder_and_by_name(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not looked into")
    assert weights_file(str(path)) == weights_file(str(tmp_path)) == weights_file(tmp_path) == path
    assert weights_folder(str(tmp_path)) == tmp_path
    assert weights_file("syncdreamer_toybox") == WEIGHTS / "syncdreamer_toybox" / "model.safetensors"


def test_loading_an_image_encoder_says_nothing_and_leaves_others_their_progress_bars(capsys):
    transformers_logging.enable_progress_bar()
    image_encoder("toybox_clip")
    assert "Loading weights" not in capsys.readouterr().err
    assert transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("name", "file", "load"),
    [
        ("toybox_vae", "diffusion_pytorch_model.safetensors", latents),
        ("toybox_clip", "image_encoder/model.safetensors", image_encoder),
        ("syncdreamer_toybox", "model.safetensors", weights_file),
    ],
)
def test_a_flipped_byte_in_a_bundled_file_is_refused_with_what_to_do(name, file, load, copies):
    load(name)
    flip_a_byte(copies / name / file)
    with pytest.raises(BadCheckpoint) as caught:
        load(name)
    message = str(caught.value)
    assert str(copies / name / file) in message and "\n" not in message
    assert f"git checkout weights/{name}" in message and "make weights" in message


def test_a_users_own_file_is_taken_as_it_is(copies):
    flip_a_byte(copies / "syncdreamer_toybox" / "model.safetensors")
    assert weights_file(str(copies / "syncdreamer_toybox")).is_file()
    assert weights_folder(str(copies / "syncdreamer_toybox")).is_dir()


@pytest.mark.parametrize("card", [None, "{", "[]", "{}", '{"files": [1]}'])
def test_bundled_weights_without_a_readable_card_are_refused(card, copies):
    path = copies / "toybox_vae" / "card.json"
    path.unlink() if card is None else path.write_text(card)
    with pytest.raises(BadCheckpoint, match="no readable card"):
        weights_folder("toybox_vae")


def test_a_bundled_file_that_is_gone_is_named(copies):
    (copies / "toybox_clip" / "image_encoder" / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"image_encoder/model\.safetensors is missing.*git checkout"):
        image_encoder("toybox_clip")


def test_both_forms_of_a_card_vouch_for_a_single_file(copies):
    folder = copies / "syncdreamer_toybox"
    card = json.loads((folder / "card.json").read_text())
    digest = card.pop("sha256", None) or card.pop("files")["model.safetensors"]
    for form in ({"sha256": digest}, {"files": {"model.safetensors": digest}}):
        (folder / "card.json").write_text(json.dumps(form))
        assert weights_file("syncdreamer_toybox") == folder / "model.safetensors"


@pytest.mark.parametrize("name", ["", "..", "../weights", "toybox_vae/../toybox_vae", "nowhere", "toybox_vae"])
def test_what_is_no_file_is_missing_with_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingWeights, match=r"no thing at .*; do this"):
        weights_file(name, what="thing", advice="do this")
    if name == "nowhere":
        with pytest.raises(MissingWeights, match=r"syncdreamer_toybox, .*toybox_clip, toybox_vae.*make weights"):
            weights_folder(name)
