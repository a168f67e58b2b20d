"""Three answers that need no model, and a sphere.

The ring of views is relative to the input: view 0 stands at the input's azimuth.
"""

from pathlib import Path

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from core.cameras.rigs import rig
from core.data.toybox import NUM_VIEWS, ToyboxPack, open_pack
from core.mesh.export import write_mesh
from core.mesh.place import sphere
from core.progress import progress_bar
from core.views import ViewSet, write_views


def write_baselines(root: Path, split: str, out: Path, *, input_view: int = 0, overwrite: bool = False) -> None:
    """Write `out/<answer>/<object>` for every object of a toybox split, and `out/sphere/<object>/mesh.ply`.

    Raises BadData when there is no such data set, BadOutput where something is already, unless `overwrite` is set.
    """
    pack, train = open_pack(root, split), open_pack(root, "train")
    inputs = torch.cat([pack.pixels(number, [NUM_VIEWS + input_view]) for number in range(len(pack.uids))])
    answers = {
        "input-repeated": input_repeated(inputs),
        "mean-view": mean_view(train).expand(len(inputs), NUM_VIEWS, -1, -1, -1),
        "nearest-object": nearest_object(train, inputs),
    }
    cameras = rig("syncdreamer", size=inputs.shape[-1])
    with progress_bar() as bar:
        for name, views in answers.items():
            for uid, pixels in bar.track(list(zip(pack.uids, views, strict=True)), description=name):
                rgba = torch.cat([(pixels + 1) / 2, torch.ones_like(pixels[:, :1])], dim=1)
                write_views(out / name / uid, ViewSet(rgba, cameras, uid), overwrite=overwrite)
    for uid in pack.uids:
        write_mesh(out / "sphere" / uid / "mesh.ply", sphere())


def input_repeated(inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n v 3 h w"]:
    """The input view, 16 times."""
    return repeat(inputs, "n c h w -> n v c h w", v=NUM_VIEWS)


def mean_view(pack: ToyboxPack) -> Float[Tensor, "3 h w"]:
    """The mean of all training target views (objects have no preferred start, so one mean serves all 16)."""
    total = sum(pack.pixels(i, list(range(NUM_VIEWS))).double().mean(dim=0) for i in range(len(pack.uids)))
    return (total / len(pack.uids)).float()


def nearest_object(pack: ToyboxPack, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n v 3 h w"]:
    """The target views of the training object, at the start, whose input view differs least from the given one."""
    best = torch.full((len(inputs),), float("inf"))
    place = torch.zeros(len(inputs), 2, dtype=torch.long)
    flat = inputs.flatten(1)
    for number in range(len(pack.uids)):
        candidates = pack.pixels(number, list(range(NUM_VIEWS, 2 * NUM_VIEWS))).flatten(1)
        distance, start = torch.cdist(flat, candidates).min(dim=1)
        closer = distance < best
        best[closer] = distance[closer]
        place[closer] = torch.stack([torch.full_like(start, number), start], dim=1)[closer]
    found = []
    for number, start in place.tolist():
        found.append(pack.pixels(number, [(start + view) % NUM_VIEWS for view in range(NUM_VIEWS)]))
    return torch.stack(found)
