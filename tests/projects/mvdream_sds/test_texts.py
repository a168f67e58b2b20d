"""Many texts: where they are read from, and how they are called."""

import json

import pytest

from core.errors import BadData, BadRequest
from projects.mvdream_sds.texts import named_texts


def test_lines_are_called_by_their_words_tables_and_folders_name_theirs(tmp_path):
    lines, table, folder = tmp_path / "texts.txt", tmp_path / "texts.json", tmp_path / "objects"
    lines.write_text("a red cone\n\na blue cube\n")
    table.write_text(json.dumps({"second": "a blue cube ", "first": "a red cone"}))
    for name, text in (("b", "a blue cube\n"), ("a", "a red cone")):
        (folder / name).mkdir(parents=True)
        (folder / name / "caption.txt").write_text(text)
    assert named_texts(lines) == {"a_red_cone": "a red cone", "a_blue_cube": "a blue cube"}
    assert named_texts(table) == {"second": "a blue cube", "first": "a red cone"}
    assert named_texts(folder) == {"a": "a red cone", "b": "a blue cube"}


def test_no_text_and_names_that_lead_elsewhere_are_refused(tmp_path):
    (tmp_path / "none.json").write_text("{}")
    (tmp_path / "away.json").write_text(json.dumps({"../cone": "a red cone"}))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "bytes" / "a").mkdir(parents=True)
    (tmp_path / "bytes" / "a" / "caption.txt").write_bytes(b"\xff\xfe")
    for name, fault, words in (
        ("none.json", BadRequest, "holds no text"),
        ("away.json", BadRequest, r"'\.\./cone' cannot be a folder's name"),
        ("broken.json", BadData, "cannot be read"),
        ("bytes", BadRequest, r"caption\.txt: cannot be read as UTF-8"),
        ("missing.txt", BadRequest, "cannot be read"),
        ("", BadRequest, r"no folder there has a caption\.txt"),
    ):
        with pytest.raises(fault, match=words):
            named_texts(tmp_path / name)
