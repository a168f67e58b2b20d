"""Memory of data-loader workers that read from a million objects: the index of a pack against a list of Python objects.

    python -m benchmarks.index                             # makes a few toybox objects and packs them
    python -m benchmarks.index --pack data/toybox_packed   # takes a pack that is there

The index lists the pack's objects over and over under different names, so that every read is a real one: 32 views from
a shard, 17 of them decoded. The list holds a path and a place per object, as data sets often do. Each is measured in
processes of its own; RSS is what a worker maps, "own" the part of it that it shares with no other process.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.packed_views import PackedViews
from core.data.table import INDEX, ROW, save_arrays
from core.training.loader import Plan, train_loader

BATCH = 10
WARM = 5  # batches of a worker before its memory counts as its start: imports, decoders, the first pages


class Probe:
    """A pack's objects, each read in full, and the reading process's memory afterwards."""

    def __init__(self, root: Path, kind: str) -> None:
        self.views = PackedViews(root=str(root), split=None)
        self.plain = None
        if kind == "list":
            entries = (self.views.pack.table[number] for number in range(len(self.views)))
            self.plain = [(str(root / f"{e.name}.tar"), e.shard, e.offset, e.size, e.crc) for e in entries]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        if self.plain is not None:
            path, *place = self.plain[index]
            assert path and len(place) == 4
        item = self.views.__getitem__(index, generator)
        assert item["target_pixels"].shape[0] == 16
        rss, own = memory_mb()
        return {"process": os.getpid(), "rss": rss, "own": own}


def memory_mb() -> tuple[float, float]:
    """RSS of this process, and the part of it that is shared with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return sizes["Rss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def measure(root: Path, kind: str, reads: int, workers: int) -> list[tuple[int, float, float, float, float]]:
    """Of each worker: reads, RSS at its start and end, its own memory at its start and end (MB)."""
    torch.set_num_threads(1)
    plan = Plan(seed=0, rank=0, world_size=1, batch_size=BATCH, accumulate=1)
    seen: dict[int, list[tuple[float, float]]] = {}
    for [batch], broken in train_loader(Probe(root, kind), plan, 0, reads // BATCH, workers, 600.0):
        assert not broken, broken
        last = {key: batch[key][-1].item() for key in ("process", "rss", "own")}
        seen.setdefault(last["process"], []).append((last["rss"], last["own"]))
    return [(len(rows) * BATCH, rows[WARM][0], rows[-1][0], rows[WARM][1], rows[-1][1]) for rows in seen.values()]


def make_pack(folder: Path) -> Path:
    """A pack of a few toybox objects, by the programs that make them."""
    settings = [f"out={folder / 'toybox'}", "objects={train: 8, val: 1, test: 1}", "num_workers=0"]
    for module, arguments in (
        ("data_tools.toybox", settings),
        ("data_tools.pack", [f"root={folder / 'toybox'}", f"out={folder / 'packed'}", "workers=1"]),
    ):
        subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.DEVNULL)
    return folder / "packed"


def enlarge(pack: Path, folder: Path, items: int) -> None:
    """In `folder`, an index of so many objects that all lie in a pack's shards."""
    index = json.loads((pack / INDEX).read_text(encoding="utf-8"))
    for shard in index["shards"]:
        (folder / shard["file"]).symlink_to((pack / shard["file"]).resolve())
    names = [f"000-{number % 160:03d}/{number:032x}" for number in range(items)]  # as Objaverse's
    rows = np.resize(np.load(pack / "index.rows.npy"), items).astype(ROW)
    rows["name_size"] = len(names[0])
    rows["name_at"] = np.arange(items, dtype=np.uint64) * len(names[0])
    save_arrays(folder, rows, np.frombuffer("".join(names).encode(), dtype=np.uint8))
    (folder / INDEX).write_text(json.dumps({**index, "items": items, "splits": {}}), encoding="utf-8")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, help="a folder made by data_tools.pack; by default a small one is made")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--reads", type=int, default=2_000)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    if given.reads // BATCH <= given.workers * (WARM + 1) or given.items < 1 or given.workers < 1:
        parser.error(f"--reads must be more than {BATCH * (WARM + 1)} per worker, --items and --workers at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "million")
        folder.mkdir()
        enlarge(given.pack or make_pack(Path(temporary)), folder, given.items)
        on_disk = sum(path.stat().st_size for path in folder.glob("*.npy")) / 2**20
        print(
            f"{given.items:,} objects, {given.reads:,} reads, {given.workers} workers; index on disk {on_disk:.0f} MB"
        )
        for kind in ("index", "list"):
            context = multiprocessing.get_context("spawn")  # a process without this one's memory
            with ProcessPoolExecutor(1, mp_context=context) as alone:
                rows = alone.submit(measure, folder, kind, given.reads, given.workers).result()
            for number, (reads, rss, rss_end, own, own_end) in enumerate(rows):
                print(
                    f"{kind:5}  worker {number}, {reads} reads: RSS {rss:.0f} -> {rss_end:.0f} MB "
                    f"({rss_end - rss:+.1f}), own {own:.0f} -> {own_end:.0f} MB ({own_end - own:+.1f})"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
