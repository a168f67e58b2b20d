"""What is wrong with an object's view sets beside what `core.views` finds in each: the one judgement of all programs.

data_tools' validate, pack, import_official and export_official ask it, and so does training's look at a pack.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.data.names import unsafe
from core.views import ViewSet, parse_transforms

NEARLY_PARALLEL = 1e-4  # of the axes' spread; below it there is no point that they all look at


def wrong_content(views: ViewSet) -> list[str]:
    """An object that no view shows, or cameras that all turn their backs on it; one line each."""
    faults = []
    if not (views.images[:, 3] > 0).any():
        faults.append("every view is empty (alpha 0 everywhere)")
    if _all_look_away(views.cameras.poses.double()):
        faults.append(
            "wrong handedness or axes: every camera looks away from the point between them; are the poses OpenCV's (z "
            "forward) where OpenGL's (z backward) are wanted, or the other way round?"
        )
    return faults


def _all_look_away(poses: Float[Tensor, "views 4 4"]) -> bool:
    """Whether the point nearest to all optical axes lies behind every camera; false where axes are parallel."""
    forward, centers = poses[:, :3, 2], poses[:, :3, 3]
    across = torch.eye(3).double() - forward[:, :, None] * forward[:, None, :]
    total = across.sum(dim=0)
    if torch.linalg.eigvalsh(total)[0] < NEARLY_PARALLEL * len(poses):
        return False
    point = torch.linalg.solve(total, (across @ centers[:, :, None]).sum(dim=0))[:, 0]
    return bool((((point - centers) * forward).sum(dim=-1) < 0).all())


def judge_packed(note: Mapping[str, Any], files: Mapping[str, bytes]) -> list[str]:
    """All faults of the view sets of a pack's object (`core.data.shards`), each with its part."""
    faults = []
    with laid_out(files) as folder:
        for part, content in note["parts"].items():
            views, found = parse_transforms(content["transforms"], folder)
            found = found if views is None else wrong_content(views)
            faults += [f"{part}: {fault.replace(f'{folder}/', '')}" if part else fault for fault in found]
    return faults


@contextmanager
def laid_out(files: Mapping[str, bytes]) -> Iterator[Path]:
    """The members of a pack's object as files of one folder, which is gone afterwards; without those named like paths,
    which no view names."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, content in files.items():
            if "/" not in name and unsafe(name) is None:
                Path(temporary, name).write_bytes(content)
        yield Path(temporary)
