"""Downloading all items of a registry, several at a time, each checked.

<out>/<path>             an item, once its size and sha256 are right
<out>/<path>.part        what has come of one that is not complete yet
<out>/results.jsonl      one line per item, in order: ok, skipped or failed and why
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.batch import Record, run_batch
from core.errors import BadConfig, BadData
from core.files import sha256_file
from core.progress import console, progress_bar
from data_tools.download.registry import Item, read_registry
from data_tools.download.transfer import Policy, fetch
from data_tools.download.unpack import folder_of, unpack

MAX_UNPACKED_GB = 20.0


def download_all(cfg: Mapping[str, Any], out: Path) -> list[Record]:
    """Bring every item of `cfg["registry"]` into `out`; of several a bad one is recorded and passed over."""
    items = read_registry(cfg["registry"])
    mirror = cfg["mirror"]
    if mirror is not None and urlsplit(mirror).scheme not in ("http", "https") and not Path(mirror).is_dir():
        raise BadConfig(f"mirror={mirror}: no such folder, and no http or https address; check it")
    policy = Policy(cfg["retries"], float(cfg["timeout_s"]))
    most = int((cfg["max_unpacked_gb"] or MAX_UNPACKED_GB) * 1e9)
    stop = threading.Event()

    def work(item: Item) -> Record:
        record = _bring(item, out / item.path, cfg, policy, stop)
        folder = folder_of(out / item.path)
        if cfg["unpack"] and folder is not None:
            if unpack(out / item.path, folder, record["sha256"], most):
                record["status"] = "ok"
            record["folder"] = folder.relative_to(out).as_posix()
        return record

    with _ahead(items, work, cfg["workers"], stop) as results, progress_bar() as bar:
        task = bar.add_task("downloading", total=len(items))

        def result(item: Item) -> Record:
            try:
                return results(item)
            finally:
                bar.advance(task)

        return run_batch(
            items,
            result,
            out=out,
            name=lambda item: item.path,
            report=lambda line: console.print(line, markup=False, highlight=False),
        )


def _bring(item: Item, final: Path, cfg: Mapping[str, Any], policy: Policy, stop: threading.Event) -> Record:
    """One item's file, checked; its record."""
    if item.sha256 is None and not cfg["allow_unverified"]:
        raise BadData(
            f"{item.path}: the registry knows no sha256 of it; allow_unverified=true takes it and notes its hash"
        )
    record = {"url": item.url, "licence": item.licence, "verified": item.sha256 is not None}
    if final.exists() and not cfg["overwrite"]:
        found = sha256_file(final) if final.is_file() else "of no file"
        if item.sha256 not in (None, found) or item.size not in (None, final.stat().st_size):
            raise BadData(f"{str(final)!r} is there with another content (sha256 {found}); remove it or overwrite=true")
        return record | {"status": "skipped", "sha256": found, "bytes": final.stat().st_size}
    found = fetch(item, final, cfg["mirror"], policy, stop)
    return record | {"status": "ok", "sha256": found, "bytes": final.stat().st_size}


@contextmanager
def _ahead(
    items: Sequence[Item], work: Callable[[Item], Record], workers: int, stop: threading.Event
) -> Iterator[Callable[[Item], Record]]:
    """Does `work` on some items ahead of being asked for their results, in order; the window keeps memory flat."""
    pool, rest, window = ThreadPoolExecutor(workers), iter(items), deque[Future[Record]]()

    def result(item: Item) -> Record:
        while len(window) < 4 * workers and (upcoming := next(rest, None)) is not None:
            window.append(pool.submit(work, upcoming))
        return window.popleft().result()

    try:
        yield result
    finally:
        stop.set()  # after an interruption; otherwise nothing is running any more
        pool.shutdown(cancel_futures=True)
