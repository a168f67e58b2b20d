"""Networks from a folder of weights: the bundled toybox ones, or the user's own in the library's format."""

from pathlib import Path

from diffusers import AutoencoderKL
from transformers import CLIPVisionModelWithProjection

from core.errors import MissingWeights
from core.models.encoders import ImageEncoder
from core.models.latents import Latents

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def weights_folder(folder: str) -> Path:
    """A folder as given, or else of that name in the project's `weights/`; MissingWeights if there is neither."""
    for path in (Path(folder), WEIGHTS / folder):
        if path.is_dir():
            return path
    raise MissingWeights(
        f"no weights {folder!r}, neither as a path nor in {WEIGHTS}; `make weights` remakes bundled ones"
    )


def latents(folder: str) -> Latents:
    """A frozen autoencoder with the scaling factor of its own config."""
    return Latents(AutoencoderKL.from_pretrained(weights_folder(folder), local_files_only=True))


def image_encoder(folder: str) -> ImageEncoder:
    """A frozen CLIP image tower (in the folder's `image_encoder/`)."""
    path = weights_folder(folder) / "image_encoder"
    return ImageEncoder(CLIPVisionModelWithProjection.from_pretrained(path, local_files_only=True))
