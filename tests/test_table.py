"""The index of a pack: a million items cost what is read of them, and a broken index is refused."""

import json
import pickle
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from core.data.table import INDEX, NAMES, ROW, ROWS, Entry, ItemTable, save_arrays, write_table
from core.errors import BadData

ROOT = Path(__file__).parents[1]
MILLION = 1_000_000
ENTRIES = [Entry("a", 0, 0, 3, zlib.crc32(b"abc")), Entry("b/möbel.1", 1, 2**33, 7, 2**32 - 1)]


@pytest.fixture(scope="module")
def million(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("million")
    rows = np.zeros(MILLION, dtype=ROW)
    rows["offset"], rows["name_size"], rows["name_at"] = np.arange(MILLION) * 4096, 8, np.arange(MILLION) * 8
    save_arrays(folder, rows, np.frombuffer(b"".join(b"%08d" % n for n in range(MILLION)), dtype=np.uint8))
    (folder / INDEX).write_text(json.dumps({"version": 1, "items": MILLION}))
    return folder


def own_mb() -> float:
    """What this process shares with no other, in MB, without pages of files that it only reads."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"Private_Dirty: +(\d+)", text)[1]) / 1024


def test_entries_come_back_as_they_were_written(tmp_path):
    write_table(tmp_path, iter(ENTRIES), {"shards": []})
    table = ItemTable(tmp_path)
    assert [table[number] for number in range(len(table))] == ENTRIES
    assert table.index["items"] == 2 and table.index["shards"] == []
    assert table[0].is_of(b"abc") and not table[0].is_of(b"abd") and not table[0].is_of(b"abcd")


def test_two_thousand_reads_of_a_million_items_leave_memory_flat(million):
    before = own_mb()
    table = ItemTable(million)
    draw = np.random.default_rng(0)
    for number in draw.integers(0, MILLION, 2000).tolist():
        assert table[number] == (f"{number:08d}", 0, number * 4096, 0, 0)
    grown = own_mb() - before
    assert len(table) == MILLION and grown < 5, f"{grown:.1f} MB; the index has 40 MB"


def test_a_table_is_sent_to_another_process_by_its_folder(million):
    sent = pickle.dumps(ItemTable(million))
    assert len(sent) < 1000 and pickle.loads(sent)[7].name == "00000007"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (INDEX, None, "no pack in"),
        (INDEX, b"{", "is unreadable"),
        (INDEX, b"[]", "is unreadable"),
        (INDEX, b'{"version": 9, "items": 2}', "is of version 9, not 1"),
        (INDEX, b'{"version": 1, "items": 3}', "is incomplete"),
        (ROWS, None, "is unreadable"),
        (ROWS, b"", "is unreadable"),
        (ROWS, b"no array at all", "is unreadable"),
        (NAMES, None, "is unreadable"),
    ],
)
def test_a_broken_index_is_refused_in_one_line(tmp_path, file, content, message):
    write_table(tmp_path, iter(ENTRIES), {})
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(BadData, match=message):
        ItemTable(tmp_path)


@pytest.mark.slow
def test_workers_that_read_from_the_index_share_it_and_a_list_is_copied_to_each():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.index", "--items", "200000", "--reads", "260"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.findall(r"(index|list) +worker \d, (\d+) reads: .*own (\d+) -> (\d+) MB \(([-+.\d]+)\)", done.stdout)
    assert [(kind, reads) for kind, reads, *_ in found] == [("index", "130")] * 2 + [("list", "130")] * 2
    own = {kind: max(int(end) for other, _, _, end, _ in found if other == kind) for kind in ("index", "list")}
    assert own["list"] > own["index"] + 30  # 200,000 paths and places
    assert all(float(growth) < 10 for kind, *_, growth in found if kind == "index")
