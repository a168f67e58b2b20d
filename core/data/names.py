"""Names that somebody else chose: from a data set's lists, or of an archive's members. Loads no torch."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath


def unsafe(name: str) -> str | None:
    """Why such a name may not become a path below a folder, or None."""
    parts = PurePosixPath(name)
    if not name or name != name.strip() or any(ord(letter) < 32 for letter in name):
        return "which is no file name"
    if parts.is_absolute() or ".." in parts.parts or "\\" in name:
        return "which leads out of the folder"
    return None


def names_hash(names: Iterable[str]) -> str:
    """sha256 of a set of names, in any order."""
    return hashlib.sha256("\n".join(sorted(names)).encode("utf-8", "surrogatepass")).hexdigest()
