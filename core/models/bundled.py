"""Where weights are, and networks from them: at a path, or in a bundled model, which is called by its name.

What is given by path is the user's own and taken as it is. A bundled file is compared with the sha256 in its model's
`card.json` whenever it is asked for by name: a damaged one would load and make noise, and hashing a few MB is nothing.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from core.errors import BadCheckpoint, MissingWeights
from core.files import sha256_file
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from core.models.text import TextEncoder

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
MODEL_FILE = "model.safetensors"
CARD_FILE = "card.json"
Part = TypeVar("Part", bound=nn.Module)


def bundled_names() -> list[str]:
    """The bundled models: the folders in the project's `weights/`."""
    return sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir()) if WEIGHTS.is_dir() else []


def weights_folder(name: str | Path) -> Path:
    """A folder as given, or a bundled model's; MissingWeights if there is neither, BadCheckpoint if that is damaged."""
    name = str(name)
    if Path(name).is_dir():
        return Path(name)
    if name in bundled_names():
        return _verified(WEIGHTS / name)
    raise MissingWeights(
        f"no weights at {name!r}; give a folder, or a bundled model of {WEIGHTS}: "
        f"{', '.join(bundled_names()) or 'none is there'} (`make weights` remakes them)"
    )


def weights_file(
    name: str | Path, *, what: str = "weights", advice: str = "put the file there, or give another path"
) -> Path:
    """A file as given, the `model.safetensors` of a folder, or that of a bundled model.

    Args:
        what: the missing thing, for the message of MissingWeights.
        advice: what to do then, for the same.
    """
    name = str(name)
    found = [Path(name), Path(name) / MODEL_FILE]
    if not any(path.is_file() for path in found) and name in bundled_names():
        found = [_verified(WEIGHTS / name) / MODEL_FILE]
    for path in found:
        if path.is_file():
            return path
    raise MissingWeights(f"no {what} at {name!r}; {advice}")


def latents(folder: str) -> Latents:
    """A frozen autoencoder with the scaling factor of its own config."""
    path = weights_folder(folder)
    return _from_folder(Latents(AutoencoderKL.from_pretrained(path, local_files_only=True)), path)


def image_encoder(folder: str) -> ImageEncoder:
    """A frozen CLIP image tower (in the folder's `image_encoder/`)."""
    path = weights_folder(folder)
    with _without_progress_bar():
        tower = CLIPVisionModelWithProjection.from_pretrained(path / "image_encoder", local_files_only=True)
    return _from_folder(ImageEncoder(tower), path)


def text_encoder(folder: str, *, length: int | None = None) -> TextEncoder:
    """A frozen CLIP text tower (in the folder's `text_encoder/`) with its tokenizer (in `tokenizer/`).

    Args:
        length: tokens of a text with its marks; None takes as many as the tower has positions.
    """
    path = weights_folder(folder)
    with _without_progress_bar():
        tower = CLIPTextModelWithProjection.from_pretrained(path / "text_encoder", local_files_only=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path / "tokenizer", local_files_only=True)
    return _from_folder(TextEncoder(clip=tower.text_model, tokenizer=tokenizer, length=length), path)


def is_from_folder(part: nn.Module) -> bool:
    """Whether a network is one of the above, which need not be kept with what is trained beside it."""
    return getattr(part, "weights_folder", None) is not None


def without_start(config: dict[str, Any], say: Callable[[str], Any]) -> dict[str, Any]:
    """The settings of a program that reads whole weights: `model.start`, where a training begins, is not read."""
    start = config["model"]["start"]
    if start is None:
        return config
    say(f"model.start={start} is where a training begins, not read here: weights= has all")
    return {**config, "model": {**config["model"], "start": None}}


def frozen_files(model: Mapping[str, Any]) -> dict[str, Path]:
    """The files of a system's frozen parts that are bundled (`latents` and the encoders of the condition), by name."""
    parts = [model.get(part, {}) for part in ("latents", "image_encoder", "text_encoder")]
    names = [part["folder"] for part in parts if "folder" in part]
    found: dict[str, Path] = {}
    for name in names:
        folder = weights_folder(name)
        found |= {f"{folder.name}/{p.relative_to(folder)}": p for p in sorted(folder.rglob("*.safetensors"))}
    return found


def _from_folder(part: Part, folder: Path) -> Part:
    part.weights_folder = folder  # type: ignore[assignment]
    return part


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """transformers draws one for a few milliseconds of reading, in the middle of the programs' own lines."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _verified(folder: Path) -> Path:
    """A bundled model's folder, once every file that its card lists is there and is the one that was published."""
    restore = f"restore it with `git checkout weights/{folder.name}`, or train it again with `make weights`"
    card = folder / CARD_FILE
    try:
        digests = _digests(json.loads(card.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{card}: no readable card, so nothing vouches for these weights; {restore}") from error
    for name, sha256 in digests.items():
        path = folder / name
        if not path.is_file():
            raise MissingWeights(f"{path} is missing; {restore}")
        if (found := sha256_file(path)) != sha256:
            raise BadCheckpoint(f"{path}: sha256 {found} instead of its card's {sha256}; {restore}")
    return folder


def _digests(card: dict) -> dict[str, str]:
    """sha256 by file; early cards of single files have one sha256 only."""
    return dict(card["files"]) if "files" in card else {MODEL_FILE: card["sha256"]}
