"""Many texts: where they are read from, and how they are called."""

import json

import pytest

from core.errors import BadConfig, BadData, BadRequest
from projects.mvdream_sds.texts import named_texts, text_of


def test_lines_are_called_by_their_words_tables_and_folders_name_theirs(tmp_path):
    lines, table, folder = tmp_path / "texts.txt", tmp_path / "texts.json", tmp_path / "objects"
    lines.write_text("a red cone\n\na blue cube\n")
    table.write_text(json.dumps({"second": "a blue cube ", "first": "a red cone"}))
    for name, text in (("b", "a blue cube\n"), ("a", "a red cone")):
        (folder / name).mkdir(parents=True)
        (folder / name / "caption.txt").write_text(text)
    assert named_texts(lines) == {"a_red_cone": "a red cone", "a_blue_cube": "a blue cube"}
    assert named_texts(table) == {"second": "a blue cube", "first": "a red cone"}
    found = {name: text_of(given) for name, given in named_texts(folder).items()}
    assert found == {"a": "a red cone", "b": "a blue cube"}


def test_a_caption_file_that_is_no_text_is_refused_when_its_turn_comes(tmp_path):
    for name, content in (("a", b"\xff\xfe"), ("b", b"a red cone"), ("c", b"\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "caption.txt").write_bytes(content)
    bytes_, good, blank = named_texts(tmp_path).values()
    assert text_of(good) == "a red cone"
    with pytest.raises(BadRequest, match=r"caption\.txt: is no UTF-8 text.*save it as UTF-8"):
        text_of(bytes_)
    with pytest.raises(BadRequest, match=r"caption\.txt: holds no text"):
        text_of(blank)
    with pytest.raises(BadRequest, match="the text is empty"):
        text_of(" ")
    with pytest.raises(BadConfig, match=r"the text: character 3 of .* is no UTF-8"):
        text_of("a \ud800")


def test_no_text_and_names_that_lead_elsewhere_are_refused(tmp_path):
    (tmp_path / "none.json").write_text("{}")
    (tmp_path / "away.json").write_text(json.dumps({"../cone": "a red cone"}))
    (tmp_path / "broken.json").write_text("{")
    for name, key in (("long", "a" * 300), ("empty", ""), ("nul", "a\0b"), ("half", "\ud800")):
        (tmp_path / f"{name}.json").write_text(json.dumps({key: "a red cone"}))
    for name, fault, words in (
        ("none.json", BadRequest, "holds no text"),
        ("away.json", BadRequest, r"'\.\./cone' cannot be a folder's name"),
        ("long.json", BadRequest, r"'a{60}' cannot be a folder's name; rename it"),
        ("empty.json", BadRequest, "'' cannot be a folder's name"),
        ("nul.json", BadRequest, "cannot be a folder's name"),
        ("half.json", BadRequest, "cannot be a folder's name"),
        ("broken.json", BadData, "cannot be read"),
        ("missing.txt", BadRequest, "cannot be read"),
        ("", BadRequest, r"no folder there has a caption\.txt"),
    ):
        with pytest.raises(fault, match=words):
            named_texts(tmp_path / name)
