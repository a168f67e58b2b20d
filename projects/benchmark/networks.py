"""Measures that need published networks: LPIPS and CLIP. Without the files they are refused, with where to put them.

Files are looked for in `folder`, or else in the folder that TURNTABLE_WEIGHTS names, or else in `ckpt/`. Where they lie
decides no number, so the folder is left out of a protocol's hash; what was read is recorded with its sha256.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.checkpoints.load import read_checkpoint, source_sha256
from core.errors import BadCheckpoint, BadData, MissingWeights
from core.files import sha256_file
from core.images import from_pil, to_pil
from core.metrics.lpips import Lpips, Net
from core.metrics.matches import neighbours
from core.metrics.text import clip_score, cosines, retrieved
from projects.benchmark.pictures import Pictures

# torchvision's published files; the digits in a name begin the file's sha256.
BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


def weights_root(folder: str | None) -> Path:
    """Where published networks lie."""
    return Path(folder or os.environ.get("TURNTABLE_WEIGHTS") or "ckpt").expanduser()


class LpipsScore:
    """LPIPS of predicted and true images, one per view.

    Args:
        net: `alex` or `vgg`.
        folder: that holds torchvision's file of the network, as published or as safetensors with the same names.

    Raises MissingWeights or BadCheckpoint when it is built.
    """

    def __init__(self, *, net: Net = "alex", folder: str | None = None) -> None:
        self.file = backbone_file(net, weights_root(folder))
        try:
            self.measure = Lpips(net, backbone=read_checkpoint(self.file), heads=published_heads(net))
        except (RuntimeError, KeyError) as error:
            raise BadCheckpoint(f"{self.file}: not torchvision's {net} network ({error}); fetch it again") from error

    def __call__(self, prediction: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        return self.measure(prediction, target)

    def weights(self) -> dict[str, str]:
        """What was read."""
        return {"file": self.file.name, "sha256": source_sha256(self.file)}


def published_heads(net: Net) -> dict[str, Tensor]:
    """LPIPS's own few weights (version 0.1), which torchmetrics carries in its package."""
    package = Path(str(find_spec("torchmetrics").origin)).parent  # type: ignore[union-attr]
    file = package / "functional" / "image" / "lpips_models" / f"{net}.pth"
    return torch.load(file, map_location="cpu", weights_only=True)


class NeighbourLpips(LpipsScore):
    """LPIPS of each view and the next, as ViewFusion measures consistency."""

    def __call__(self, views: Pictures) -> Float[Tensor, "pairs"]:  # type: ignore[override]
        one, other = zip(*neighbours(len(views)), strict=True)
        return self.measure(views.images[list(one)], views.images[list(other)])


class Clip:
    """CLIP from a folder as transformers saves one; no number is made without it.

    Args:
        model: its name at openai, and that of its folder below the weights' root.
    """

    def __init__(self, *, model: str = "clip-vit-large-patch14") -> None:
        self.path = weights_root(None) / model
        lacking = [name for name in ("config.json", "tokenizer_config.json") if not (self.path / name).is_file()]
        if lacking:
            raise MissingWeights(
                f"no CLIP at {str(self.path.absolute())!r} ({', '.join(lacking)} missing); put the folder of "
                f"openai/{model} there (config.json, model.safetensors, the tokenizer's files)"
            )
        self.model, self.tokenizer = _clip(self.path)

    def weights(self) -> dict[str, str]:
        """What was read."""
        return {"folder": self.path.name, "sha256": sha256_file(self.path / "model.safetensors")}

    @torch.no_grad()
    def of_images(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """CLIP's own preprocessing: shorter side to its size (bicubic, Pillow's), middle square, its normalisation."""
        from core.models.encoders import CLIP_MEAN, CLIP_STD  # which loads transformers

        size = self.model.config.vision_config.image_size
        squares = torch.stack([_square(image, size) for image in images])
        mean, std = (squares.new_tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
        return self.model.visual_projection(self.model.vision_model((squares - mean) / std).pooler_output)

    @torch.no_grad()
    def of_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """BadData for a text that has more tokens than CLIP reads."""
        limit = self.model.config.text_config.max_position_embeddings
        given = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        if given.input_ids.shape[1] > limit:
            raise BadData(f"a caption has {given.input_ids.shape[1]} tokens, CLIP reads {limit}; shorten it")
        return self.model.text_projection(self.model.text_model(**given).pooler_output)


class ClipScore(Clip):
    """Cosine of each view with its object's caption."""

    def __call__(self, images: Tensor, own: int, captions: Sequence[str]) -> Float[Tensor, "n"]:
        return clip_score(cosines(self.of_images(images), self.texts(captions)), own)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """The captions' features, made once."""
        known: tuple[Any, Tensor] | None = getattr(self, "_texts", None)
        if known is None or known[0] != tuple(captions):
            self._texts = known = (tuple(captions), self.of_texts(captions))
        return known[1]


class ClipRetrieval(ClipScore):
    """CLIP-R: 1 for each view whose own caption is among the `top` nearest of all objects' captions."""

    def __init__(self, *, top: int = 1, model: str = "clip-vit-large-patch14") -> None:
        super().__init__(model=model)
        self.top = top

    def __call__(self, images: Tensor, own: int, captions: Sequence[str]) -> Float[Tensor, "n"]:
        return retrieved(cosines(self.of_images(images), self.texts(captions)), own, top=self.top)


class NeighbourClip(Clip):
    """Cosine of the image features of each view and the next, as ViewFusion measures consistency."""

    def __call__(self, views: Pictures) -> Float[Tensor, "pairs"]:
        one, other = zip(*neighbours(len(views)), strict=True)
        similarity = cosines(found := self.of_images(views.images), found)
        return similarity[list(one), list(other)]


@lru_cache(maxsize=1)
def _clip(path: Path) -> tuple[Any, Any]:
    """Model and tokenizer; several measures share one, which takes 1.7 GB."""
    from transformers import AutoTokenizer, CLIPModel

    try:
        model = CLIPModel.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
        return model, AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BadCheckpoint(f"{str(path)!r}: not CLIP as transformers saves it ({error}); fetch it again") from error


def backbone_file(net: str, root: Path) -> Path:
    """torchvision's weights of a network; MissingWeights says where to put them, BadCheckpoint for another file."""
    published = BACKBONES[net]
    path, other = root / published, (root / published).with_suffix(".safetensors")
    if not path.is_file() and not other.is_file():
        raise MissingWeights(
            f"LPIPS ({net}) needs torchvision's {published}: put it (or the same tensors as {other.name}) into "
            f"{str(root.absolute())!r}, or set TURNTABLE_WEIGHTS to its folder"
        )
    if not path.is_file():
        return other
    digits = path.stem.rpartition("-")[2]
    if not source_sha256(path).startswith(digits):
        raise BadCheckpoint(f"{path}: its sha256 does not begin with {digits} as its name says; fetch it again")
    return path


def _square(image: Float[Tensor, "3 h w"], size: int) -> Float[Tensor, "3 size size"]:
    picture = to_pil(image)
    ratio = size / min(picture.size)
    wide, high = (max(size, int(side * ratio)) for side in picture.size)
    picture = picture.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return from_pil(picture.crop((left, top, left + size, top + size)))
