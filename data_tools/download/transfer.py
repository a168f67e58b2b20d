"""One file from an address to its final name: resumed where it broke off, checked before it gets the name.

Bytes arrive in `<final name>.part`. A part is gone on with only where a sha256 will judge the whole; one that turns out
wrong is thrown away and fetched once more from the start.
"""

import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote, urlsplit

from core.errors import BadData, BadOutput
from core.files import atomic_file, sha256_file
from data_tools.download.registry import Item

CHUNK = 1 << 18  # bytes
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP codes of faults that may pass


class Interrupted(Exception):
    """A transfer broke off; what came is in the part."""


@dataclass(frozen=True)
class Policy:
    """How hard to try.

    Args:
        retries: further attempts after one that broke off.
        timeout_s: seconds without a byte that count as broken off.
        wait_s: before the first further attempt; doubled each time.
    """

    retries: int = 5
    timeout_s: float = 60.0
    wait_s: float = 1.0


class Body(Protocol):
    """What a source gives: bytes."""

    def read(self, size: int, /) -> bytes: ...


def fetch(item: Item, final: Path, mirror: str | None, policy: Policy, stop: threading.Event) -> str:
    """Bring an item to `final`; returns its sha256.

    Args:
        mirror: a folder, or the beginning of an address, that holds the items under their paths; None: their own URLs.
        stop: once set, the transfer ends and keeps its part.

    Raises BadData for what the source lacks, for another size or hash, and for a transfer that breaks off every time;
    nothing is then left under the final name. Raises BadOutput where the disk refuses.
    """
    part = final.with_name(f"{final.name}.part")
    with _disk_refusals(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        if item.sha256 is None:
            part.unlink(missing_ok=True)
        resumed = part.exists()
        _receive_all(item, part, mirror, policy, stop)
        found = sha256_file(part)
        if item.sha256 is not None and found != item.sha256 and resumed:
            part.unlink()
            _receive_all(item, part, mirror, policy, stop)
            found = sha256_file(part)
        if item.sha256 is not None and found != item.sha256:
            part.unlink()
            raise BadData(
                f"{_address(item, mirror)} has the sha256 {found}, the registry says {item.sha256}; nothing is kept: "
                "find out which of them is right"
            )
        with atomic_file(final) as temporary:
            part.replace(temporary)
    return found


def _receive_all(item: Item, part: Path, mirror: str | None, policy: Policy, stop: threading.Event) -> None:
    """The whole of an item in its part, over as many attempts as allowed."""
    for attempt in range(policy.retries + 1):
        try:
            _receive(item, part, mirror, policy.timeout_s, stop)
            return
        except Interrupted as fault:
            there = part.stat().st_size if part.exists() else 0
            if stop.is_set() or attempt == policy.retries:
                of = f" of {item.size:,}" if item.size is not None else ""
                raise BadData(
                    f"{_address(item, mirror)}: {fault}; {there:,}{of} bytes have come, a further run goes on there"
                ) from fault
            stop.wait(policy.wait_s * 2**attempt)


def _receive(item: Item, part: Path, mirror: str | None, timeout_s: float, stop: threading.Event) -> None:
    """One attempt to append what the part lacks."""
    begin = part.stat().st_size if part.exists() else 0
    if item.size is not None and begin > item.size:
        begin = 0
    if begin and begin == item.size:
        return
    with _opened(item, mirror, begin, timeout_s) as (body, begin, total):
        if item.size is not None and total is not None and total != item.size:
            part.unlink(missing_ok=True)
            raise BadData(f"{_address(item, mirror)} has {total:,} bytes, the registry says {item.size:,}")
        wanted = item.size if item.size is not None else total
        with part.open("r+b" if begin else "wb") as file:
            file.seek(begin)
            _copy(body, file, begin, wanted, stop)
            file.truncate()
        if wanted is not None and part.stat().st_size != wanted:
            raise Interrupted(f"the source ended early, {wanted - part.stat().st_size:,} bytes before its end")


def _copy(body: Body, file: BinaryIO, begin: int, wanted: int | None, stop: threading.Event) -> None:
    """All that the source gives; one that gives more than it may is cut off."""
    came = begin
    while chunk := _read(body):
        came += len(chunk)
        if wanted is not None and came > wanted:
            Path(file.name).unlink()
            raise BadData(f"the source sends more than the {wanted:,} bytes that there should be; nothing is kept")
        file.write(chunk)
        if stop.is_set():
            raise Interrupted("stopped")


def _read(body: Body) -> bytes:
    try:
        return body.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f"the transfer broke off ({type(error).__name__})") from error


@contextmanager
def _opened(item: Item, mirror: str | None, begin: int, timeout_s: float) -> Iterator[tuple[Body, int, int | None]]:
    """The source's bytes from `begin` on (or all, where it cannot), where they begin, and how many there are in all."""
    if mirror is not None and urlsplit(mirror).scheme not in ("http", "https"):
        path = Path(mirror, item.path)
        try:
            file = path.open("rb")
        except OSError as error:
            raise BadData(f"{str(path)!r}: {error.strerror or error}; the mirror lacks it") from error
        with file:
            file.seek(begin)
            yield file, begin, path.stat().st_size
        return
    address = _address(item, mirror)
    headers = {"User-Agent": "turntable", **({"Range": f"bytes={begin}-"} if begin else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if begin and error.code == 416:  # the part is no beginning of what is there
            with _opened(item, mirror, 0, timeout_s) as opened:
                yield opened
            return
        if error.code in PASSING:
            raise Interrupted(f"HTTP {error.code} {error.reason}") from error
        raise BadData(f"{address}: HTTP {error.code} {error.reason}; check the registry, or give mirror=") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Interrupted(f"no answer ({reason})") from error
    except ValueError as error:
        raise BadData(f"{address}: {error}; check the address") from error
    with response:
        length = response.headers.get("Content-Length")
        resumed = response.status == 206 and _range_begins(response.headers.get("Content-Range"), begin)
        begin = begin if resumed else 0
        yield response, begin, begin + int(length) if length and length.isdigit() else None


def _range_begins(content_range: str | None, begin: int) -> bool:
    return content_range is not None and content_range.startswith(f"bytes {begin}-")


def _address(item: Item, mirror: str | None) -> str:
    if mirror is None:
        return item.url
    if urlsplit(mirror).scheme in ("http", "https"):
        return f"{mirror.rstrip('/')}/{quote(item.path)}"
    return str(Path(mirror, item.path))


@contextmanager
def _disk_refusals(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadOutput(
            f"cannot write {str(final)!r}: {error.strerror or error}; free space or choose another out="
        ) from error
