"""A batch goes on past a bad item and lists it."""

import json

import pytest

from core.batch import RESULTS, append_result, run_batch
from core.errors import BadImage, BadOutput, UserError


def work_on(seen, bad=()):
    def work(item):
        seen.append(item)
        if item in bad:
            raise BadImage(f"{item} is broken")
        return {"folder": item}

    return work


def quiet(*_):
    return None


def lines(out):
    return [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]


def test_a_bad_item_is_listed_and_the_rest_is_done(tmp_path):
    seen = []
    with pytest.raises(UserError, match=r"1 of 3 inputs failed.*b is broken"):
        run_batch(["a", "b", "c"], work_on(seen, bad="b"), out=tmp_path, report=quiet)
    assert seen == ["a", "b", "c"]
    assert [record["status"] for record in lines(tmp_path)] == ["ok", "failed", "ok"]


def test_a_line_that_a_crash_cut_short_spoils_no_other(tmp_path):
    append_result(tmp_path, {"input": "a"})
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"input": "b", "sta')
    append_result(tmp_path, {"input": "c"})
    first, cut, last = (tmp_path / RESULTS).read_text().splitlines()
    assert json.loads(first) == {"input": "a"} and cut == '{"input": "b", "sta' and json.loads(last) == {"input": "c"}


def test_an_output_that_cannot_be_written_stops_the_batch(tmp_path):
    seen = []

    def work(item):
        seen.append(item)
        raise BadOutput("the disk is full")

    with pytest.raises(BadOutput):
        run_batch(["a", "b"], work, out=tmp_path, report=quiet)
    assert seen == ["a"]
