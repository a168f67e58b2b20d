"""A card says what the training recorded, what it started from, and what the published files are."""

import json
from pathlib import Path

import pytest

from core.errors import BadData, MissingWeights
from core.files import sha256_file
from core.models.bundled import WEIGHTS
from core.training.publishing import trained_weights, write_card


@pytest.fixture
def another(whole, tmp_path):
    """Makes runs that started from something: copies of a real run whose record says so."""

    def make(name: str, start: Path | str | None, **changes) -> Path:
        folder = tmp_path / name / "weights"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(name.encode())
        (tmp_path / "index.json").write_text(json.dumps({"sha256": "d" * 64, "splits": {}}))
        record = json.loads((whole / "weights" / "provenance.json").read_text())
        record["config"]["model"]["start"] = None if start is None else str(start)
        record["config"] |= {"data": {"root": str(tmp_path)}, "publish": "somewhere"}
        (folder / "provenance.json").write_text(json.dumps(record | {"command": name} | changes))
        return tmp_path / name

    return make


def card_of(run_folder: Path, published: Path, **options) -> dict:
    published.mkdir(exist_ok=True)
    (published / "model.safetensors").write_bytes(b"published")
    given = write_card(published, run=run_folder, what="a toy", **options)
    assert json.loads((published / "card.json").read_text()) == given
    return given


def test_a_card_repeats_the_record_of_the_training_and_hashes_the_files(another, whole, tmp_path):
    card = card_of(another("run", None), tmp_path / "published", measured={"error": 0.5}, more=3)
    recorded = json.loads((whole / "weights" / "provenance.json").read_text())
    for key in ("cpu_seconds", "code", "config_hash", "seed", "versions", "date"):
        assert card[key] == recorded[key]
    assert card["what"] == "a toy" and card["command"] == "run" and card["measured"] == {"error": 0.5}
    assert card["data_sha256"] == "d" * 64 and card["more"] == 3 and "started_from" not in card
    assert card["files"] == {"model.safetensors": sha256_file(tmp_path / "published" / "model.safetensors")}
    assert card["trained_sha256"] == sha256_file(tmp_path / "run" / "weights" / "model.safetensors")
    assert card["config"]["seed"] == recorded["config"]["seed"] and not {"out", "publish"} & set(card["config"])
    assert "measured" not in card_of(tmp_path / "run", tmp_path / "published")


def test_a_card_tells_the_whole_line_of_what_a_run_started_from(another, tmp_path):
    bare = tmp_path / "downloaded.ckpt"
    bare.write_bytes(b"from elsewhere")
    first = another("first", bare, cpu_seconds=100)
    second = another("second", first / "weights", cpu_seconds=20)
    third = another("third", second / "weights" / "model.safetensors", cpu_seconds=3)
    start = card_of(third, tmp_path / "published")["started_from"]
    assert (start["command"], start["cpu_seconds"]) == ("second", 20)
    assert start["sha256"] == sha256_file(second / "weights" / "model.safetensors")
    assert (start["started_from"]["command"], start["started_from"]["cpu_seconds"]) == ("first", 100)
    assert start["started_from"]["started_from"] == {"weights": str(bare), "sha256": sha256_file(bare)}


def test_a_start_that_was_published_is_told_by_its_card(another, tmp_path):
    first = another("first", None, cpu_seconds=100)
    second = another("second", first / "weights", cpu_seconds=20)
    card_of(second, tmp_path / "published")
    start = card_of(another("third", tmp_path / "published"), tmp_path / "next")["started_from"]
    assert (start["command"], start["started_from"]["command"]) == ("second", "first")
    bundled = card_of(another("fourth", "syncdreamer_toybox"), tmp_path / "next")["started_from"]
    assert bundled["sha256"] == sha256_file(WEIGHTS / "syncdreamer_toybox" / "model.safetensors")
    assert bundled["cpu_seconds"] > 0


def test_a_start_that_is_gone_or_overwritten_is_refused(another, tmp_path):
    with pytest.raises(MissingWeights, match=r"run started from at '.*gone\.ckpt'; put them back"):
        card_of(another("a", tmp_path / "gone.ckpt"), tmp_path / "published")
    with pytest.raises(BadData, match="also where its result goes or went"):
        card_of(another("b", tmp_path / "b" / "weights"), tmp_path / "published")
    final = tmp_path / "final"
    card_of(another("c", None), final)
    with pytest.raises(BadData, match="also where its result goes or went"):
        card_of(another("d", final), tmp_path / "published", replaces=final)


def test_an_unfinished_run_or_one_without_costs_is_refused(another, tmp_path):
    with pytest.raises(MissingWeights, match="finish the training first"):
        trained_weights(tmp_path)
    folder = another("run", None) / "weights" / "provenance.json"
    record = json.loads(folder.read_text())
    del record["cpu_seconds"]
    for content, says in ((json.dumps(record), "lacks cpu_seconds"), ("{", "unreadable")):
        folder.write_text(content)
        with pytest.raises(BadData, match=f"{says}.*start the finished run again"):
            card_of(tmp_path / "run", tmp_path / "published")
