"""What a scene is told: view-dependent prompts, and text features that are kept on the disk."""

import logging

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from core.errors import BadConfig, BadRequest
from core.models.bundled import text_encoder
from projects.mvdream_sds.scene.prompts import WORDS, Directions, Prompts
from projects.mvdream_sds.scene.text_cache import encode, encode_cached, encoder_sha256


@pytest.fixture(scope="module")
def encoder():
    return text_encoder("toybox_clip", length=48)


def lengths(texts):
    """Features that say which text they are of."""
    return torch.stack([torch.full((2, 3), float(len(text))) for text in texts])


def test_the_prompt_is_said_to_all_views_unless_directions_are_asked_for():
    prompts = Prompts(lengths, "a hat", "bad")
    context, negative = prompts(torch.zeros(3, 4), torch.zeros(3, 4))
    assert_close(context, torch.full((3, 1, 2, 3), 5.0))
    assert_close(negative, torch.full((3, 1, 2, 3), 3.0))


def test_a_view_is_called_by_where_it_looks_from_and_overhead_wins():
    directions = Directions(front=30.0, back=30.0)
    azimuth = torch.tensor([0.0, 29.0, 31.0, 90.0, 149.0, 151.0, 180.0, -151.0, 331.0, 725.0])
    said = [WORDS[index] for index in directions.choose(azimuth, torch.zeros(10))]
    assert said == ["front", "front", "side", "side", "side", "back", "back", "back", "front", "front"]
    high = directions.choose(azimuth, torch.full((10,), 61.0))
    assert {WORDS[index] for index in high} == {"overhead"}
    assert directions.texts("a hat") == [f"a hat, {word} view" for word in ("side", "front", "back", "overhead")]
    before = Directions(words="before").texts("a hat")
    assert before == [f"{word} view of a hat" for word in ("side", "front", "backside", "overhead")]


def test_each_view_hears_its_own_direction():
    prompts = Prompts(lengths, "a hat", "", directions=Directions(front=30.0, back=30.0))
    context, _ = prompts(torch.tensor([[0.0, 90.0, 180.0, 270.0]]), torch.tensor([[0.0, 0.0, 0.0, 70.0]]))
    assert context[0, :, 0, 0].tolist() == [len(f"a hat, {w} view") for w in ("front", "side", "back", "overhead")]
    assert not prompts.state_dict(), "they follow from the settings, so no checkpoint holds them"


def test_an_empty_prompt_and_impossible_thresholds_are_refused():
    with pytest.raises(BadRequest, match="prompt is empty"):
        Prompts(lengths, "  ", "")
    with pytest.raises(BadConfig, match=r"directions\.front=200"):
        Directions(front=200.0)


def test_cached_features_are_those_computed_and_are_read_not_made_again(encoder, tmp_path, monkeypatch):
    texts = ["a red cube", ""]
    first = encode_cached(encoder, texts, tmp_path)
    assert torch.equal(first, encode(encoder, texts)) and torch.equal(encode_cached(encoder, texts, None), first)
    assert len(list(tmp_path.iterdir())) == 2
    made = []
    monkeypatch.setattr("projects.mvdream_sds.scene.text_cache.encode", lambda e, t: made.append(t) or encode(e, t))
    assert torch.equal(encode_cached(encoder, texts, tmp_path), first) and not made
    encode_cached(encoder, [*texts, "a blue cube"], tmp_path)
    assert made == [["a blue cube"]]


def test_another_encoder_has_files_of_its_own(encoder, tmp_path):
    other = text_encoder("toybox_clip", length=20)
    assert encoder_sha256(other) != encoder_sha256(encoder)
    encode_cached(encoder, ["a red cube"], tmp_path)
    assert encode_cached(other, ["a red cube"], tmp_path).shape[1] == 20
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_named_and_made_again(encoder, tmp_path, caplog):
    good = encode_cached(encoder, ["a red cube"], tmp_path)
    (path,) = tmp_path.iterdir()
    for content in (b"", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(encode_cached(encoder, ["a red cube"], tmp_path), good)
        assert str(path) in caplog.text and "made again" in caplog.text
        caplog.clear()
        with safe_open(path, framework="pt") as file:
            assert file.metadata()["text"] == "a red cube"


def test_unknown_words_and_too_many_are_named(encoder, tmp_path):
    with pytest.raises(BadRequest, match="zebra"):
        encode_cached(encoder, ["a zebra"], tmp_path)
    with pytest.raises(BadRequest, match="tokens"):
        encode_cached(encoder, ["cube " * 2000], tmp_path)
    assert not list(tmp_path.iterdir())
