"""One run folder, one run: a lock file that names its owner and shows that it is alive."""

import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.errors import BadOutput

HEARTBEAT_S = 10.0
SILENT_S = 120.0  # an owner on another host is taken for dead after this


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds `folder/run.lock` within the block; raises BadOutput when a living run holds it."""
    path = folder / "run.lock"
    token = uuid.uuid4().hex
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while not _create(path, token):
            _remove_stale(path)
    except OSError as error:
        raise BadOutput(f"cannot write in run folder {str(folder)!r}: {error.strerror}; choose another out=") from error
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, stop), daemon=True, name="run-lock")
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join()
        if _read(path).get("token") == token:
            path.unlink(missing_ok=True)


def _create(path: Path, token: str) -> bool:
    """False when the file is already there."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid()), "token": token}
    draft = path.with_name(f".lock-{token}")
    try:
        draft.write_text(json.dumps(owner) + "\n")
        os.link(draft, path)  # appears with its content, or not at all
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _remove_stale(path: Path) -> None:
    """Removes the lock of a dead owner; raises BadOutput when it lives."""
    owner = _read(path)
    silent_s = _silence(path)
    if silent_s is None:
        return  # just released
    here = owner.get("host") == socket.gethostname()
    alive = _started(owner.get("pid", -1)) == owner.get("started", "?") if here else silent_s < SILENT_S
    if alive:
        raise BadOutput(
            f"run folder {str(path.parent)!r} is in use by process {owner.get('pid')} on {owner.get('host')} "
            f"(heartbeat {silent_s:.0f} s ago); stop that run, or choose another out="
        )
    grave = path.with_name(f".lock-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):  # another starter was faster
        path.rename(grave)
        if _read(grave).get("token") != owner.get("token"):
            os.link(grave, path)  # what was moved is a newer run's lock: put it back
        grave.unlink()


def _silence(path: Path) -> float | None:
    """Seconds since the last heartbeat, by the clock of the file system (hosts' clocks differ); None without a lock."""
    probe = path.with_name(f".lock-{uuid.uuid4().hex}")
    try:
        probe.touch()
        return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with suppress(OSError):
            os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _started(pid: int) -> str | None:
    """When a process of this host started, which tells it from a later one of the same number; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # a zombie is dead
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0) if pid > 0 else None
        return "?" if pid > 0 else None  # no /proc here: a living process of that number counts as the owner
    except OSError:
        return None
