"""Texts as the features of their tokens, by CLIP's text tower (Radford et al. 2021).

A Stable Diffusion reads all of them: start, words, end, and what fills the rest of a fixed length. Nothing that a user
typed is changed in silence: a text that is too long and a word that the tokenizer does not know are refused by name.
"""

import difflib
import html
import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from core.errors import BadRequest

log = logging.getLogger(__name__)
SHOWN = 60  # characters of a text in a message
NAMED, NUM_NEAREST = 5, 3  # unknown words in a message, and known ones for each


class TextEncoder(nn.Module):
    """CLIP's text tower, frozen: what its last layer says of each token, after the final norm."""

    def __init__(
        self,
        *,
        clip: CLIPTextModel,
        tokenizer: PreTrainedTokenizerFast,
        padding: Literal["zero", "end"] = "zero",
        length: int | None = None,
        too_long: Literal["refuse", "cut"] = "refuse",
        max_batch: int = 64,
    ) -> None:
        """
        Args:
            clip: the tower. SD-2 reads OpenCLIP ViT-H's next to last hidden state: its tower has one layer less.
            padding: what follows the end mark: token 0 (OpenCLIP, SD-2) or more end marks (OpenAI's CLIP, SD-1).
            length: tokens of a text with its marks; None takes as many as the tower has positions.
            too_long: what becomes of a text of more: an error, or its beginning alone, as in the official code.
            max_batch: texts that pass through the tower at once; a bound on memory without effect on the result.
        """
        super().__init__()
        most = clip.config.max_position_embeddings
        if not 3 <= (length or most) <= most:
            raise ValueError(f"expected a length from 3 to the tower's {most} positions, got {length}")
        self.clip = clip.requires_grad_(False)
        self.tokenizer = tokenizer
        self.padding = padding
        self.length = length or most
        self.too_long = too_long
        self.max_batch = max_batch
        self._told_of_cut = False

    def forward(self, captions: Sequence[str]) -> Float[Tensor, "n l e"]:
        """Features of each caption's tokens. The empty caption is the null condition.

        Raises BadRequest for an unknown word, and for a caption of too many tokens (unless those are cut).
        """
        tokens = self.tokenize(captions).to(self.clip.device)
        return torch.cat([self.embed(chunk) for chunk in tokens.split(self.max_batch)])

    def embed(self, tokens: Int[Tensor, "n l"]) -> Float[Tensor, "n l e"]:
        """Features of tokens. As in the official code nothing is masked: what pads takes part like a word."""
        return self.clip(input_ids=tokens).last_hidden_state

    def tokenize(self, captions: Sequence[str]) -> Int[Tensor, "n l"]:
        """Start mark, words, end mark and padding; errors as of `forward`."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        fill = 0 if self.padding == "zero" else end
        rows = []
        for caption in captions:
            words = self.words(caption)
            room = self.length - 2
            if len(words) > room and self.too_long == "cut":
                self._tell_of_cut(caption, len(words) + 2)
                words = words[:room]
            if len(words) > room:
                size = f"{len(words) + 2} tokens with its marks ({len(caption)} characters)"
                raise BadRequest(f"the text {_short(caption)} has {size}, the model reads {self.length}; shorten it")
            rows.append([start, *words, end, *[fill] * (room - len(words))])
        return torch.tensor(rows, dtype=torch.long).reshape(len(rows), self.length)

    def words(self, caption: str) -> list[int]:
        """Tokens without marks; BadRequest for the words that the tokenizer does not know."""
        text = clean(caption)
        found: Any = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        unknown = self.tokenizer.unk_token_id
        if unknown in (None, self.tokenizer.eos_token_id):  # CLIP's own spells out any word
            return list(found.input_ids)
        spans = [span for token, span in zip(found.input_ids, found.offset_mapping, strict=True) if token == unknown]
        if spans:
            words = list(dict.fromkeys(text[a:b] for a, b in spans))
            more = f", and {len(words) - NAMED} more" if len(words) > NAMED else ""
            raise BadRequest(
                f"the text {_short(caption)} has words that this model does not know: "
                f"{', '.join(map(self._with_nearest, words[:NAMED]))}{more}; use others"
            )
        return list(found.input_ids)

    def _with_nearest(self, word: str) -> str:
        known = [entry for entry in self.tokenizer.get_vocab() if entry not in self.tokenizer.all_special_tokens]
        nearest = difflib.get_close_matches(word[:SHOWN].lower(), sorted(known), n=NUM_NEAREST, cutoff=0.5)
        return _short(word) + (f" (nearest known: {', '.join(nearest)})" if nearest else "")

    def _tell_of_cut(self, caption: str, count: int) -> None:
        if not self._told_of_cut:
            told = "the text %s has %d tokens, of which %d are read; others that are too long are cut as well"
            log.warning(told, _short(caption), count, self.length)
        self._told_of_cut = True


def clean(text: str) -> str:
    """Character references resolved and white space joined, as the official tokenizers do; mojibake stays."""
    return " ".join(html.unescape(html.unescape(text)).split())


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
