"""What a table was measured against: a digest of the true files, since one protocol may meet another truth."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import BadData
from core.files import natural_key, sha256_file
from core.views import PROVENANCE
from projects.benchmark.protocol import Protocol


def truth_record(protocol: Protocol, gt: Path, names: Sequence[str]) -> dict[str, Any]:
    """The objects' names, and one sha256 of them and of all their files but their records of where they come from.

    Objects, views or pixels that differ give another digest: such numbers do not belong into one table.
    """
    digest = hashlib.sha256()
    for name in names:
        for path in files(protocol, gt, name):
            try:
                content = sha256_file(path)
            except OSError as error:
                raise BadData(f"{str(path)!r} cannot be read ({error.strerror}); repair the truth") from error
            digest.update(f"{name}\0{path.relative_to(gt).as_posix()}\0{content}\n".encode(errors="surrogateescape"))
    return {"folder": str(gt), "objects": list(names), "sha256": digest.hexdigest()}


def files(protocol: Protocol, gt: Path, name: str) -> list[Path]:
    """All that the layout says there is of an object, as far as it is there."""
    layout = protocol.truth
    kinds = [kind for kind in ("views", "mesh", "depths", "captions", "angles") if getattr(layout, kind) is not None]
    found: set[Path] = set()
    for kind in kinds:
        path = layout.path(gt, kind, name)
        found |= {path} if path.is_file() else {file for file in path.rglob("*") if file.is_file()}
    if protocol.input_views is not None:
        found.add(gt / protocol.input_views)
    return sorted((path for path in found if path.name != PROVENANCE), key=natural_key)
