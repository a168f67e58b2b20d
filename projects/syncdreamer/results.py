"""What `generate` leaves of one picture: view sets and pictures, ranked, and the key of all that they depend on."""

import json
import shutil
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from core import batch
from core.batch import Record
from core.images import composite, contact_sheet, truncated, write_image
from core.metrics.consistency import consistency
from core.types import Cameras
from core.views import TRANSFORMS, ViewSet, write_views
from projects.syncdreamer.sampling import Samples

BEST, RANKING = "best", "ranking.json"


def finished(folder: Path, key: str) -> Record | None:
    """The record of a folder that was made whole under this key (`core.batch.finished`)."""
    return batch.finished(folder, key, mark=RANKING, parts=_parts)


def write_samples(folder: Path, samples: Samples, cameras: Cameras, name: str, provenance: Record) -> list[float]:
    """One view set and one official picture per sample, and the input; returns the samples' scores."""
    write_image(folder / "input.png", (samples.pixels + 1) / 2)
    scores = []
    for number, rgba in enumerate(samples.views):
        views = ViewSet(rgba, cameras, name, provenance=provenance)
        write_views(folder / str(number), views)
        # The official picture: what was decoded, without a mask, cut to 8 bits.
        row = contact_sheet(rgba[:, :3], len(views))
        write_image(folder / f"{number}.png", truncated(row))
        scores.append(consistency(views).score)
    return scores


def write_ranking(folder: Path, samples: Samples, scores: list[float], key: str, mask: str) -> Record:
    """The sheet, best sample first, the best view set under a name of its own, and the record, which is returned."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    write_image(folder / "contact_sheet.png", sheet(samples, order))
    shutil.copytree(folder / str(order[0]), folder / BEST)  # a copy: some file systems have no links
    ranking = [{"sample": number, "consistency": round(scores[number], 4)} for number in order]
    record = {"best": order[0], "ranking": ranking, "mask": mask, "key": key}
    (folder / RANKING).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return record


def sheet(samples: Samples, order: list[int]) -> Float[Tensor, "3 h w"]:
    """The input and the 16 views of each sample, one row each, in the given order."""
    rows = []
    for number in order:
        rows += [(samples.pixels + 1) / 2, *composite(samples.views[number])]
    return contact_sheet(torch.stack(rows), len(rows) // len(order))


def _parts(record: Record) -> list[str]:
    names = [BEST, *(str(entry["sample"]) for entry in record["ranking"])]
    return [f"{name}/{TRANSFORMS}" for name in names]
