"""Features of texts, computed once and kept on the disk.

A file belongs to one text and one encoder: its weights, vocabulary and padding, whatever file they came from.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.files import atomic_file
from core.models.text import TextEncoder

log = logging.getLogger(__name__)
TENSOR = "features"


def encode_cached(encoder: TextEncoder, texts: Sequence[str], folder: Path | None) -> Float[Tensor, "n l e"]:
    """The encoder's features of each text, read where they are known and written where they are not.

    Args:
        folder: of the cache; None keeps nothing.
    """
    if folder is None:
        return encode(encoder, texts)
    sha256 = encoder_sha256(encoder)
    paths = [folder / f"{text_key(sha256, text)}.safetensors" for text in texts]
    found = [_read(path, sha256, text) for path, text in zip(paths, texts, strict=True)]
    missing = [number for number, features in enumerate(found) if features is None]
    if missing:
        made = encode(encoder, [texts[number] for number in missing])
        for number, features in zip(missing, made, strict=True):
            found[number] = features
            with atomic_file(paths[number]) as temporary:
                save_file(
                    {TENSOR: features.cpu().contiguous()},
                    temporary,
                    metadata={"text": texts[number], "encoder": sha256},
                )
    return torch.stack([features for features in found if features is not None])


@torch.no_grad()
def encode(encoder: TextEncoder, texts: Sequence[str]) -> Float[Tensor, "n l e"]:
    return encoder(list(texts)).cpu()


def encoder_sha256(encoder: TextEncoder) -> str:
    """Of all that decides a text's features: the tower's weights, the words, the padding and the length."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.clip.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    rest = [sorted(encoder.tokenizer.get_vocab().items()), encoder.padding, encoder.length, encoder.too_long]
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()


def text_key(encoder_sha256: str, text: str) -> str:
    """A file's stem."""
    return hashlib.sha256(f"{encoder_sha256}\x1f{text}".encode(errors="surrogatepass")).hexdigest()


def _read(path: Path, encoder_sha256: str, text: str) -> Tensor | None:
    """What a file holds, if it is this text's and whole; a damaged one is named, and made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (metadata.get("text"), metadata.get("encoder")) != (text, encoder_sha256):
                raise ValueError("it is of another text or encoder")
            features: Tensor = file.get_tensor(TENSOR)
        if not torch.isfinite(features).all():
            raise ValueError("it holds NaN or infinity")
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("text features %s are damaged (%s); they are made again", path, error)
        return None
    return features
