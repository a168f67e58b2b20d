"""The toybox encoders of images and captions: CLIP's two towers, very small (Radford et al. 2021)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection, PreTrainedTokenizerFast

from core.data.toybox import open_pack
from core.models.encoders import ImageEncoder
from core.training.module import Batch, TrainingModule

MAX_SCALE = 100.0
# Quirk: transformers' text tower takes an end token of 2 for a sign of old weights; so "end" is 3.
SPECIAL = {"<pad>": 0, "<start>": 1, "<unknown>": 2, "<end>": 3}


class ClipSystem(TrainingModule):
    """Images and captions of one object point the same way, those of different objects apart."""

    publishes = "towers"

    def __init__(
        self,
        *,
        image: CLIPVisionModelWithProjection,
        text: CLIPTextModelWithProjection,
        tokenizer: PreTrainedTokenizerFast,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.towers = nn.ModuleDict({"image": ImageEncoder(image), "text": text})
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.tokenizer = tokenizer

    def embed_images(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return F.normalize(self.towers["image"](pixels)[:, 0].float(), dim=-1)

    def embed_captions(self, captions: list[str]) -> Float[Tensor, "n d"]:
        tokens = tokenize(self.tokenizer, captions, self.towers["text"].config.max_position_embeddings)
        embeds = self.towers["text"](**{name: values.to(self.device) for name, values in tokens.items()}).text_embeds
        return F.normalize(embeds.float(), dim=-1)

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        logits = scale * self.embed_images(batch["pixels"]) @ self.embed_captions(batch["caption"]).T
        own = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return {"loss": loss, "accuracy": (logits.argmax(-1) == own).float().mean()}

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The two towers; the temperature was needed for training only."""
        return {name.removeprefix("towers."): value for name, value in state.items() if name.startswith("towers.")}

    @torch.no_grad()
    def publish(self, folder: Path, *, root: str) -> dict[str, float]:
        """Save both towers and the tokenizer; measure how often an image's nearest caption is its own, and so on."""
        self.eval()
        test = open_pack(root, "test")
        images = torch.stack([self.embed_images(test.pixels(i, list(range(32)))) for i in range(len(test.uids))])
        captions = self.embed_captions(test.captions)
        likeness = torch.einsum("ovd,cd->ovc", images, captions)
        own = torch.arange(len(captions))
        self.towers["image"].clip.save_pretrained(folder / "image_encoder")
        self.towers["text"].save_pretrained(folder / "text_encoder")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        return {
            "test_image_to_caption_top1": float((likeness.argmax(-1) == own[:, None]).float().mean()),
            "test_caption_to_image_top1": float((own[:, None] == likeness.argmax(0).T).float().mean()),
            "test_image_to_caption_top3": float(
                (likeness.topk(min(3, len(own)), dim=-1).indices == own[:, None, None]).any(-1).float().mean()
            ),
            "test_candidates": float(len(own)),
        }


def word_tokenizer(root: str, max_dropped: float = 0.0) -> PreTrainedTokenizerFast:
    """One token per word of the training captions, in alphabetical order; other words are <unknown>."""
    captions = open_pack(root, "train", max_dropped).captions
    words = sorted({word for caption in captions for word in caption.replace(",", " ,").split()})
    vocabulary = SPECIAL | {word: len(SPECIAL) + number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(name, SPECIAL[name]) for name in ("<start>", "<end>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        model_input_names=["input_ids", "attention_mask"],
    )


def tokenize(
    tokenizer: PreTrainedTokenizerFast, captions: list[str], max_length: int
) -> dict[str, Int[Tensor, "n length"]]:
    """Padded to the longest; what is longer than `max_length` is cut, and still ends with <end>."""
    return dict(tokenizer(captions, padding=True, truncation=True, max_length=max_length, return_tensors="pt"))
