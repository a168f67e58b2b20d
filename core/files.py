"""Files that appear whole or not at all, and the lists of files that a program is asked to work on.

What is written goes to a temporary name in the same folder, is flushed to the disk, and is then renamed: a killed or
failed program leaves nothing half-written under a final name.
"""

# ruff: noqa: PTH110, PTH111, PTH112, PTH113, PTH207  os.path answers False where a Path raises (names too long)
import glob
import hashlib
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.errors import BadImage, BadOutput, UserError

MAX_NAME = 255  # bytes, of the usual file systems
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path with the same suffix; on success what was written there replaces `path`.

    Raises BadOutput when the disk is full, read-only, or refuses otherwise; the temporary file is gone in any case.
    """
    path = Path(path)
    # A short name of its own: the final name may already be as long as the file system allows.
    temporary = path.parent / f".tmp-{uuid.uuid4().hex[:12]}{path.suffix[:32]}"
    try:
        with _os_errors_as_bad_output(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _share(temporary)
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool = False, *, mark: str | None = None) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; on success it becomes `path`, as a whole.

    A folder that is already there is refused, unless it is empty or `overwrite` is set; then it is replaced with all
    it holds, but only once the new one is complete.

    Args:
        mark: a file that every such folder has. A folder without it is somebody's own, and never replaced.
    """
    path = Path(os.path.realpath(path))
    if mark is not None:
        check_replaceable(path, mark)
    if not overwrite and os.path.lexists(path) and not _is_empty_folder(path):
        raise BadOutput(f"output {str(path)!r} already exists; choose another folder or set overwrite=true")
    temporary = path.parent / f".tmp-{uuid.uuid4().hex[:12]}"
    replaced = temporary.with_name(temporary.name + "-old")
    try:
        with _os_errors_as_bad_output(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _share(Path(folder, name))
                    _fsync(Path(folder, name))
                _fsync(Path(folder))
            if overwrite and os.path.lexists(path):
                path.rename(replaced)
            temporary.rename(path)
            _fsync(path.parent)
    finally:
        if os.path.lexists(replaced) and not os.path.lexists(path):
            replaced.rename(path)
        _remove(temporary)
        _remove(replaced)


def check_replaceable(path: str | Path, mark: str) -> None:
    """Refuse a place where something is that lacks the file `mark`: it is not ours to replace."""
    path = Path(os.path.realpath(path))
    if os.path.lexists(path) and not _is_empty_folder(path) and not (path / mark).is_file():
        raise BadOutput(f"{str(path)!r} is there and holds no {mark}, so it was not made here; choose another folder")


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content, read piecewise."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def natural_key(path: str | Path) -> list[tuple[int, str]]:
    """Sorts `view2` before `view10`."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [(int(piece), "") if index % 2 else (-1, piece.casefold()) for index, piece in enumerate(pieces)]


def output_names(paths: Sequence[Path], *, keep_suffix: bool = False) -> list[str]:
    """A name for what is made of each path: where it lies below the folder that holds all, `a/b.png` -> `a_b`.

    The suffix stays where names would be equal without it, or where it is no suffix (`keep_suffix`). A name that is
    still not the only one, or too long, ends in a digest. A file system that ignores case keeps all of them apart.
    """
    places = [path.parent.resolve() / path.name for path in paths]
    root = os.path.commonpath([place.parent for place in places])
    below = [place.relative_to(root) for place in places]
    full = ["_".join(place.parts) for place in below]
    short = full if keep_suffix else ["_".join(place.with_suffix("").parts) for place in below]
    names = [a if once else b for a, b, once in zip(short, full, _only_ones(short), strict=True)]
    return [
        name if once and len(os.fsencode(name)) <= MAX_NAME else f"{_shortened(name)}-{_digest(place)}"
        for name, place, once in zip(names, below, _only_ones(names), strict=True)
    ]


def _only_ones(names: Sequence[str]) -> list[bool]:
    counts = Counter(name.casefold() for name in names)
    return [counts[name.casefold()] == 1 for name in names]


def _shortened(name: str) -> str:
    return os.fsencode(name)[: MAX_NAME - 20].decode(errors="ignore")


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]


def list_inputs(
    spec: str,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    *,
    what: str = "image",
    fault: type[UserError] = BadImage,
) -> list[Path]:
    """The files that `spec` names: one file, a folder (not its sub-folders), or a glob (`**` recurses).

    Naturally sorted. A literal file wins over a glob, so `photo[1].png` can be given as it is.

    Args:
        suffixes: of the files that count in a folder.
        what: one of them, in words.
        fault: what is raised when nothing matches.
    """
    literal = spec if os.path.exists(spec) else os.path.expanduser(spec)
    if os.path.isfile(literal):
        return [Path(literal)]
    if os.path.isdir(literal):
        with _listing(literal, fault), os.scandir(literal) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(suffixes) and not e.name.startswith(".")]
        found = [path for name in names if (path := Path(literal, name)).is_file()]
        wanted = f"{suffixes[0]}, {suffixes[1]} ..." if len(suffixes) > 1 else suffixes[0]
        nothing = f"folder {spec!r} holds no {what} files ({wanted})"
    else:
        found = _glob_files(literal) if glob.has_magic(literal) else []
        nothing = f"input {spec!r}: no such file or folder, and no file matches it as a glob"
    if not found:
        raise fault(f"{nothing}; give one {what} file, a folder of them, or a quoted glob")
    return sorted(found, key=natural_key)


def _glob_files(pattern: str) -> list[Path]:
    """Files matching a glob, each folder visited under one name only: a loop of links must not repeat its files."""
    found: dict[tuple[str, str], Path] = {}
    for match in glob.iglob(pattern, recursive=True):
        folder, name = os.path.split(match)
        if os.path.isfile(match):
            found.setdefault((os.path.realpath(folder), name), Path(match))
    return list(found.values())


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        path.unlink(missing_ok=True)


def _share(path: Path) -> None:
    """Gives a file the permissions of an ordinary new one: safetensors makes files that only their owner may read."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _os_errors_as_bad_output(path: Path, temporary: Path) -> Iterator[None]:
    """Turns the operating system's refusals into BadOutput, except those about files that are not ours to write."""
    try:
        yield
    except OSError as error:
        if not _concerns(error, path, temporary):
            raise
        reason = error.strerror or str(error) or type(error).__name__
        raise BadOutput(f"cannot write {str(path)!r}: {reason}; free space or choose another output") from error


def _concerns(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error is about the output: it names it, or a folder above it, or (full disk) no file at all."""
    names = [str(name) for name in (error.filename, error.filename2) if isinstance(name, (str, os.PathLike))]
    above = {str(path), *map(str, path.parents)}
    return not names or any(name.startswith(str(temporary)) or name in above for name in names)


@contextmanager
def _listing(path: str, fault: type[UserError]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise fault(f"cannot list {path!r}: {error.strerror or error}; check its permissions") from error
