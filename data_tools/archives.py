"""Archives (.zip, .tar, .tar.gz ...) that somebody else made: looked through before anything of them is unpacked."""

import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from core.data.names import unsafe
from core.errors import BadData

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
# what broken and encrypted archives raise
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def archive_suffix(path: Path) -> str | None:
    """The suffix by which a file's name is an archive's; None for what is none."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def extract(source: Path, folder: Path, most: int, over: str) -> None:
    """Unpack an archive into a folder.

    Args:
        most: bytes that all members together may have.
        over: ends the message on an archive of more.

    Raises BadData, and unpacks nothing, if a member would land elsewhere (`../`, a link) or is neither file nor folder,
    or if all together are larger than `most`; and one of `BROKEN`.
    """
    (_unzip if source.name.lower().endswith(".zip") else _untar)(source, folder, most, over)


def _unzip(source: Path, folder: Path, most: int, over: str) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        for member in members:
            _check(source, member.filename, plain=(member.external_attr >> 28) in (0, 0o4, 0o10))  # Unix: folder, file
        _check_size(source, sum(member.file_size for member in members), most, over)
        archive.extractall(folder)


def _untar(source: Path, folder: Path, most: int, over: str) -> None:
    with tarfile.open(source) as archive:
        total = 0
        for member in archive:
            _check(source, member.name, plain=member.isreg() or member.isdir())
            total += member.size
            _check_size(source, total, most, over)
        archive.extractall(folder, filter="data")


def _check(source: Path, name: str, *, plain: bool) -> None:
    """BadData for a member that is no plain file or folder below the archive's own."""
    name = str(PurePosixPath(name)) if name.startswith("./") or name.endswith("/") else name
    if (reason := unsafe(name)) is not None:
        raise BadData(f"{str(source)!r} has the member {name!r}, {reason}; nothing of it was unpacked")
    if not plain:
        raise BadData(f"{str(source)!r} has the member {name!r}, a link or a device; nothing of it was unpacked")


def _check_size(source: Path, total: int, most: int, over: str) -> None:
    if total > most:
        raise BadData(f"{str(source)!r} unpacks to {total / 1e9:.1f} GB or more, {over}")
