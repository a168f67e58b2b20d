"""A batch goes on past a bad item, lists it, and does nothing twice."""

import pytest

from core.batch import RESULTS, append_result, read_results, run_batch
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


def test_a_bad_item_is_listed_and_the_rest_is_done(tmp_path):
    seen = []
    with pytest.raises(UserError, match=r"1 of 3 inputs failed.*b is broken"):
        run_batch(["a", "b", "c"], work_on(seen, bad="b"), out=tmp_path, settings="s", report=quiet)
    assert seen == ["a", "b", "c"]
    assert [record["status"] for record in read_results(tmp_path)] == ["ok", "failed", "ok"]


def test_a_second_run_does_only_what_is_missing(tmp_path):
    seen = []
    with pytest.raises(UserError):
        run_batch(["a", "b"], work_on(seen, bad="b"), out=tmp_path, settings="s", report=quiet)
    records = run_batch(["a", "b"], work_on(seen), out=tmp_path, settings="s", report=quiet)
    assert seen == ["a", "b", "b"]
    assert [record["status"] for record in records] == ["ok", "ok"]


def test_results_of_other_settings_are_not_mixed(tmp_path):
    run_batch(["a"], work_on([]), out=tmp_path, settings="s", report=quiet)
    with pytest.raises(BadOutput, match="other settings"):
        run_batch(["a"], work_on([]), out=tmp_path, settings="t", report=quiet)


def test_a_line_that_a_crash_cut_short_is_forgotten(tmp_path):
    append_result(tmp_path, {"input": "a", "status": "ok", "settings": "s"})
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"input": "b", "sta')
    assert [record["input"] for record in read_results(tmp_path)] == ["a"]
    append_result(tmp_path, {"input": "c", "status": "ok", "settings": "s"})
    assert [record["input"] for record in read_results(tmp_path)] == ["a", "c"]


def test_an_output_that_cannot_be_written_stops_the_batch(tmp_path):
    seen = []

    def work(item):
        seen.append(item)
        raise BadOutput("the disk is full")

    with pytest.raises(BadOutput):
        run_batch(["a", "b"], work, out=tmp_path, settings="s", report=quiet)
    assert seen == ["a"]
