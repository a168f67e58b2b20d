"""Texts and their tokens: what is unknown or too long is named, and published tokenizers are read from local files."""

import gzip
import importlib.util
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from core.errors import BadCheckpoint, BadRequest, MissingWeights
from core.models import bundled
from core.models.clip_vocabulary import END, MERGES_FILE, START, clip_tokenizer, from_merges
from core.models.text import TextEncoder, clean
from tests.golden_fixture import load

LENGTH = 8


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return bundled.text_encoder("toybox_clip", length=LENGTH)


def test_every_text_has_as_many_tokens_and_does_not_depend_on_the_others(encoder):
    texts = ["a red cone", "", "a lime cube, blue"]
    together = encoder(texts)
    assert together.shape == (3, LENGTH, encoder.clip.config.hidden_size)
    for text, features in zip(texts, together, strict=True):
        assert torch.allclose(encoder([text])[0], features, atol=1e-6)
    assert not together.requires_grad


def test_padding_is_zero_or_the_end_mark(encoder):
    start, end = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    row = encoder.tokenize(["a red cone"])[0].tolist()
    assert row[0] == start and row[4:] == [end, 0, 0, 0]
    other = TextEncoder(clip=encoder.clip, tokenizer=encoder.tokenizer, length=LENGTH, padding="end")
    assert other.tokenize(["a red cone"])[0].tolist() == [*row[:5], end, end, end]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red zebra", "the text 'a red zebra' has words that this model does not know: 'zebra'; use others"),
        ("a redd cubes", "'redd' \\(nearest known: red.*\\), 'cubes' \\(nearest known: cube"),
        ("vw xy jk qz zq mq wv", "'vw', 'xy', 'jk', 'qz', 'zq', and 2 more; use others"),
        ("x" * 10_000, r"'x{57}\.\.\.'; use others"),
        ("red " * 7, r"has 9 tokens with its marks \(28 characters\), the model reads 8; shorten it"),
        ("red " * 2500, r"has 2502 tokens with its marks \(10000 characters\), the model reads 8"),
    ],
)
def test_a_text_that_the_model_cannot_read_is_refused_by_name(encoder, text, words):
    with pytest.raises(BadRequest, match=words) as refused:
        encoder([text])
    assert len(str(refused.value)) < 400


def test_long_texts_are_cut_where_that_is_asked_for_and_it_is_said_once(encoder, caplog):
    cutting = TextEncoder(clip=encoder.clip, tokenizer=encoder.tokenizer, length=LENGTH, too_long="cut")
    with caplog.at_level(logging.WARNING):
        tokens = cutting.tokenize(["red " * 20, "red " * 6])
        cutting.tokenize(["blue " * 20])
    assert torch.equal(tokens[0], tokens[1]) and tokens[0, -1] == cutting.tokenizer.eos_token_id
    assert len(caplog.records) == 1 and "has 22 tokens, of which 8 are read" in caplog.records[0].getMessage()


def test_a_length_beyond_the_towers_positions_is_an_error(encoder):
    with pytest.raises(ValueError, match="from 3 to the tower's 64 positions, got 65"):
        TextEncoder(clip=encoder.clip, tokenizer=encoder.tokenizer, length=65)


def test_character_references_and_white_space_are_cleaned():
    assert clean(" a &amp;amp; b\n\tc ") == "a & b c"


def test_merges_become_clips_vocabulary_in_its_order():
    tokenizer = from_merges([("c", "o"), ("co", "n"), ("con", "e</w>"), ("r", "e")])
    vocabulary = tokenizer.get_vocab()
    assert vocabulary["!"] == 0 and vocabulary["!</w>"] == 256
    assert [vocabulary[word] for word in ("co", "con", "cone</w>", "re", START, END)] == list(range(512, 518))
    ids = tokenizer("Cone red", add_special_tokens=False).input_ids
    assert ids == [514, 515, vocabulary["d</w>"]]


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda place: None, MissingWeights, "no CLIP tokenizer at .*put the tokenizer/ folder of a Stable Diffusion"),
        (lambda place: place.mkdir(), MissingWeights, "has no vocab.json"),
        (lambda place: (place.mkdir(), (place / "vocab.json").write_text("{}")), MissingWeights, "has no merges.txt"),
        (lambda place: place.write_text("version\na b\n"), BadCheckpoint, r"515 tokens, .* instead of CLIP's 49408"),
        (lambda place: place.write_bytes(b"\xff\xfe\x00"), BadCheckpoint, "no list of CLIP's merges"),
        (lambda place: place.write_text("version\na b c\n"), BadCheckpoint, "no list of CLIP's merges"),
    ],
    ids=["nothing", "empty folder", "no merges", "other vocabulary", "no text", "no pairs"],
)
def test_a_tokenizer_that_is_not_there_or_another_is_named_with_what_to_do(make, kind, words, tmp_path):
    make(tmp_path / "clip_tokenizer")
    with pytest.raises(kind, match=words):
        clip_tokenizer(str(tmp_path / "clip_tokenizer"))


def test_the_word_open_clip_asks_for_the_package_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match=r"no package open_clip .*pip install --no-deps open_clip_torch"):
        clip_tokenizer("open_clip")


@pytest.mark.slow
def test_the_tokens_are_the_official_ones_whichever_file_they_come_from(tmp_path):
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip (pip install --no-deps open_clip_torch) is not installed: it has CLIP's vocabulary")
    info, data = load("mvdream_sds", "text")
    tokenizer = clip_tokenizer("open_clip")
    size = info["text_cfg"]["context_length"]
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                            max_position_embeddings=size)  # fmt: skip
    clip = CLIPTextModel(config)
    assert torch.equal(TextEncoder(clip=clip, tokenizer=tokenizer).tokenize(info["prompts"]), data["tokens"])
    with pytest.raises(BadRequest, match=r"has \d+ tokens with its marks \(10000 characters\), the model reads"):
        TextEncoder(clip=clip, tokenizer=tokenizer).tokenize(["x" * 10_000])

    [source] = importlib.util.find_spec("open_clip").submodule_search_locations
    lines = gzip.decompress(Path(source, MERGES_FILE).read_bytes()).decode().split("\n")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines[1 : 1 + 49408 - 514]]) + "\n")
    again = TextEncoder(clip=clip, tokenizer=clip_tokenizer(str(folder)))
    assert torch.equal(again.tokenize(info["prompts"]), data["tokens"])
