"""What answers to captions are worth at best and by chance, laid out like any method's, from the toybox alone.

<out>/truth/<object>             the true views themselves: what the measures give for a right answer
<out>/autoencoded/<object>       the same after the toybox autoencoder: the best that a model of its latents can do
<out>/another-object/<object>    the true views of the next object: what no knowledge of the caption gives
"""

from pathlib import Path

import torch

from core.cameras.rigs import rig
from core.data.toybox import NUM_VIEWS, open_pack
from core.errors import BadData
from core.foreground import with_white_as_alpha
from core.models.bundled import latents
from core.progress import progress_bar
from core.views import ViewSet, write_views
from projects.benchmark.layout import OBJECT, Layout

QUARTERS = list(range(0, NUM_VIEWS, NUM_VIEWS // 4))  # views at azimuths 0, 90, 180 and 270 degrees


@torch.no_grad()
def write_captioned(root: Path, split: str, out: Path, *, place: str = OBJECT, overwrite: bool = False) -> None:
    """Write the three answers for every object of a toybox split.

    Args:
        place: of an object's views below an answer's folder, as in a protocol's `prediction.views`.

    Raises BadData when there is no such data set or it has one object only, BadOutput where something is already,
    unless `overwrite` is set.
    """
    pack, vae, layout = open_pack(root, split), latents("toybox_vae"), Layout(views=place)
    count = len(pack.uids)
    if count < 2:
        raise BadData(f"split {split!r} of {str(root)!r} has one object, so there is no other; make it with more")
    truth = torch.stack([torch.from_numpy(pack.images[place, QUARTERS]) for place in pack.places]).float() / 255
    cameras = rig("syncdreamer", size=truth.shape[-1])[QUARTERS]
    with progress_bar() as bar:
        for number, uid in bar.track(list(enumerate(pack.uids)), description="answers to captions"):
            pixels = pack.pixels(number, QUARTERS)
            decoded = vae.decode(vae.mode(vae.moments(pixels)))
            answers = {
                "truth": truth[number],
                "autoencoded": with_white_as_alpha((decoded.clamp(-1, 1) + 1) / 2),
                "another-object": truth[(number + 1) % count],
            }
            for name, images in answers.items():
                views = ViewSet(images, cameras, uid, pack.captions[number])
                write_views(layout.path(out / name, "views", uid), views, overwrite=overwrite)
