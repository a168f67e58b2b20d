"""Toybox views whose images went through the frozen encoders once, so that training reads latents.

Exact: the autoencoder's noise is still drawn at every step, from stored means and log-variances (in 16 bits, whose
rounding is far below that noise). Which view starts and how the others follow is as in `ToyboxViews`.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.data.toybox import NUM_VIEWS, open_pack
from core.errors import BadData
from core.files import atomic_file
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from core.progress import console, progress_bar


@runtime_checkable
class Pack(Protocol):
    """Objects with views, such as `ToyboxPack` and `FreeViews`."""

    @property
    def uids(self) -> list[str]: ...

    def pixels(self, number: int, views: list[int]) -> Float[Tensor, "views 3 height width"]: ...


class EncodedViews:
    """Items of `ToyboxViews`, encoded: target_moments [16, 2c, h, w], input_moments [2c, h, w], input_embedding [1, d],
    input_elevation [1] (radians).

    Args:
        root: a folder made by data_tools.toybox.
        split: train, val or test.
        latents: the autoencoder.
        image_encoder: gives the input view's token.
        cache: folder for the encoded views; a file there belongs to one data set and one pair of networks. One that
            is damaged is made again.
        max_dropped: the fraction of objects that may be left out as broken; BadData when more are.
    """

    def __init__(
        self,
        *,
        root: str,
        split: str,
        latents: Latents,
        image_encoder: ImageEncoder,
        cache: str,
        max_dropped: float = 0.0,
    ) -> None:
        self.pack = open_pack(root, split, max_dropped)
        data = self.pack.sha256
        targets_and_inputs, inputs = range(2 * NUM_VIEWS), range(NUM_VIEWS, 2 * NUM_VIEWS)
        stem = Path(cache) / split
        self.moments = encoded(self.pack, targets_and_inputs, latents, lambda x: latents.moments(x).half(), stem, data)
        self.embeddings = encoded(self.pack, inputs, image_encoder, lambda x: image_encoder(x)[:, 0], stem, data)

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        order = [(start + i) % NUM_VIEWS for i in range(NUM_VIEWS)]
        return {
            "target_moments": torch.from_numpy(self.moments[index, order]).float(),
            "input_moments": torch.from_numpy(self.moments[index, [NUM_VIEWS + start]])[0].float(),
            "input_embedding": torch.from_numpy(self.embeddings[index, start][None].copy()),
            "input_elevation": self.pack.elevations[index, start : start + 1],
        }


def fingerprint(network: nn.Module) -> str:
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encoded(
    pack: Pack, views: range, network: nn.Module, encode: Callable[[Tensor], Tensor], stem: Path, data: str
) -> np.ndarray:
    """Each object's views through one network, memory-mapped from a file that belongs to this data and network.

    Args:
        views: numbers of the object's views to encode.
        network: whose weights name the file.
        encode: pixels in [-1, 1] -> what is kept of each view.
        stem: of the file: its folder, and the beginning of its name.
        data: hash of the data.
    """
    key = hashlib.sha256(f"{data} {fingerprint(network)}".encode()).hexdigest()[:16]
    path = stem.with_name(f"{stem.name}-{type(network).__name__.lower()}-{key}.npy")
    found = _kept(path, (len(pack.uids), len(views))) if path.exists() else None
    if found is None:
        network.eval()
        with atomic_file(path) as temporary, progress_bar() as bar:
            first = encode(pack.pixels(0, list(views))).numpy()
            shape = (len(pack.uids), *first.shape)
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=first.dtype, shape=shape)
            for number in bar.track(range(len(pack.uids)), description=f"encoding ({type(network).__name__})"):
                array[number] = encode(pack.pixels(number, list(views))).numpy()
            array.flush()
        found = np.load(path, mmap_mode="r")
    return found


def _kept(path: Path, counts: tuple[int, int]) -> np.ndarray | None:
    """What was encoded before, objects by views by the rest; None, after a line about it, where that is damaged."""
    try:
        array = np.load(path, mmap_mode="r")
    except OSError as error:
        raise BadData(f"cannot read {str(path)!r}: {error.strerror or error}; check its permissions") from error
    except (ValueError, EOFError) as error:
        cause = str(error)
    else:
        if array.shape[:2] == counts:
            return array
        cause = f"{array.shape[:2]} objects and views instead of {counts}"
    console.print(f"{path} is damaged ({cause}): encoding again", markup=False)
    return None
