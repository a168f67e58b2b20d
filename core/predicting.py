"""Predictions for a data set: one view set per object, kept when started again with all that decided it unchanged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import BadOutput
from core.provenance import config_hash
from core.views import PROVENANCE, ViewSet, write_views


@dataclass(frozen=True)
class Predictions:
    """The folder of a method's predictions, `out/<object>`.

    Args:
        record: the provenance of all of them (`core.provenance.provenance`).
        key: digest of what decides them.
        overwrite: replace what has another key.
    """

    out: Path
    record: dict[str, Any]
    key: str
    overwrite: bool

    @classmethod
    def of(cls, out: Path, record: dict[str, Any], deciding: dict[str, Any], *, overwrite: bool) -> "Predictions":
        """`deciding`: settings and hashes of data; the weights are taken from the record."""
        return cls(out, record, config_hash(deciding | {"weights": record["weights"]}), overwrite)

    def missing(self, names: Sequence[str]) -> list[int]:
        """Places of the objects that are to be made. BadOutput where others are, unless they are to be replaced."""
        places = [place for place, name in enumerate(names) if self._key(self.out / name) != self.key]
        folders = [self.out / names[place] for place in places]
        taken = [folder for folder in folders if folder.exists() and any(folder.iterdir())]
        if taken and not self.overwrite:
            raise BadOutput(
                f"{len(taken)} folders hold other views, of other settings, weights or data, the first: "
                f"{str(taken[0])!r}; choose another out= or set overwrite=true"
            )
        return places

    def write(self, views: ViewSet, cpu_seconds: float) -> None:
        """One object's views, under its name, with what decided them; whole or not at all."""
        source = self.record | {"key": self.key, "cpu_seconds": round(cpu_seconds, 2)}
        write_views(self.out / views.name, replace(views, provenance=source), overwrite=True)

    @staticmethod
    def _key(folder: Path) -> str | None:
        try:
            return json.loads((folder / PROVENANCE).read_text(encoding="utf-8")).get("key")
        except (OSError, ValueError, AttributeError):
            return None
