"""Archives beside themselves: each in a folder of its name, which appears whole or not at all."""

import json
from pathlib import Path

from core.errors import BadData, BadOutput
from core.files import atomic_folder
from data_tools.archives import BROKEN, archive_suffix, extract

NOTE = ".unpacked.json"  # in an unpacked folder: the archive's sha256


def folder_of(archive: Path) -> Path | None:
    """The folder that an archive is unpacked to; None for what is no archive."""
    suffix = archive_suffix(archive)
    stem = archive.name[: -len(suffix)] if suffix else ""
    return archive.with_name(stem) if stem else None


def unpack(archive: Path, folder: Path, sha256: str, max_bytes: int) -> bool:
    """Unpack an archive whose sha256 is given; False where that was done before.

    Raises BadData for an archive that is broken, unsafe or too large, or whose folder holds something else.
    """
    if folder.exists():
        if _note(folder) == sha256:
            return False
        raise BadData(f"{str(folder)!r} is there, and not from this {archive.name}; remove it to unpack anew")
    over = f"more than max_unpacked_gb={max_bytes / 1e9:g}; raise that if it is right"
    try:
        with atomic_folder(folder) as temporary:
            extract(archive, temporary, max_bytes, over)
            note = json.dumps({"archive": archive.name, "sha256": sha256})
            (temporary / NOTE).write_text(note + "\n", encoding="utf-8")
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno:  # gzip's have no number
            raise BadOutput(f"cannot unpack {str(archive)!r}: {error.strerror}; choose another out=") from error
        raise BadData(f"archive {str(archive)!r} is broken ({type(error).__name__}: {error})") from error
    return True


def _note(folder: Path) -> str | None:
    try:
        return json.loads((folder / NOTE).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
