"""Toybox views whose images went through the frozen encoders once, so that training reads latents.

Exact: the autoencoder's noise is still drawn at every step, from stored means and log-variances (in 16 bits, whose
rounding is far below that noise). Started views and their order are those of `ToyboxViews`.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.data.toybox import NUM_VIEWS, ToyboxPack, open_pack, read_index
from core.files import atomic_file
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from core.progress import progress_bar


class EncodedViews:
    """Items of `ToyboxViews`, encoded: target_moments [16, 2c, h, w], input_moments [2c, h, w], input_embedding [1, d],
    input_elevation [1] (radians).

    Args:
        root: a folder made by data_tools.toybox.
        split: train, val or test.
        latents: the autoencoder.
        image_encoder: gives the input view's token.
        cache: folder for the encoded views; a file there belongs to one data set and one pair of networks.
    """

    def __init__(self, *, root: str, split: str, latents: Latents, image_encoder: ImageEncoder, cache: str) -> None:
        self.pack = open_pack(root, split)
        key = hashlib.sha256()
        key.update(read_index(Path(root))["sha256"].encode())
        for network in (latents, image_encoder):
            key.update(fingerprint(network).encode())
        stem = Path(cache) / f"{split}-{key.hexdigest()[:16]}"
        paths = {name: stem.with_name(f"{stem.name}-{name}.npy") for name in ("moments", "embeddings")}
        if not all(path.exists() for path in paths.values()):
            _encode(self.pack, latents, image_encoder, paths)
        self.moments = np.load(paths["moments"], mmap_mode="r")
        self.embeddings = np.load(paths["embeddings"], mmap_mode="r")

    def __len__(self) -> int:
        return len(self.pack.uids)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        start = int(torch.randint(NUM_VIEWS, (), generator=generator))
        order = [(start + i) % NUM_VIEWS for i in range(NUM_VIEWS)]
        return {
            "target_moments": torch.from_numpy(self.moments[index, order]),
            "input_moments": torch.from_numpy(self.moments[index, NUM_VIEWS + start]),
            "input_embedding": torch.from_numpy(self.embeddings[index, start][None]),
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
def _encode(pack: ToyboxPack, latents: Latents, image_encoder: ImageEncoder, paths: dict[str, Path]) -> None:
    latents, image_encoder = latents.eval(), image_encoder.eval()

    def encode(number: int) -> tuple[Tensor, Tensor]:
        pixels = pack.pixels(number, range(2 * NUM_VIEWS))
        return latents.moments(pixels).half(), image_encoder(pixels[NUM_VIEWS:])[:, 0]

    first = encode(0)
    with atomic_file(paths["moments"]) as moments_file, atomic_file(paths["embeddings"]) as embeddings_file:
        shapes = [(len(pack.uids), *part.shape) for part in first]
        moments = np.lib.format.open_memmap(moments_file, mode="w+", dtype=np.float16, shape=shapes[0])
        embeddings = np.lib.format.open_memmap(embeddings_file, mode="w+", dtype=np.float32, shape=shapes[1])
        with progress_bar() as bar:
            for number in bar.track(range(len(pack.uids)), description="encoding the views"):
                moments[number], embeddings[number] = (part.numpy() for part in encode(number))
        moments.flush()
        embeddings.flush()
