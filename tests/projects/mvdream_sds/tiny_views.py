"""The real classes of the multi-view model, as small as they go, with every attention that the full size has."""

import copy
import functools

import torch
from diffusers import UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from core.models.text import TextEncoder
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.system import MultiViewSystem
from tests.projects.syncdreamer.tiny import latents

SIZE, CONTEXT, LENGTH, VIEWS = 32, 12, 6, 4
WORDS = ("a", "red", "cube", "ball")


def denoiser(**options) -> MultiViewDenoiser:
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=[8, 16], layers_per_block=1, norm_num_groups=4,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"], up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        attention_head_dim=2, cross_attention_dim=CONTEXT, use_linear_projection=True,
    )  # fmt: skip
    return MultiViewDenoiser(unet=unet, image_size=SIZE, **options)


def text_encoder() -> TextEncoder:
    marks = {"<pad>": 0, "<start>": 1, "<unknown>": 2, "<end>": 3}
    vocabulary = marks | {word: len(marks) + number for number, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>"}
    config = CLIPTextConfig(
        vocab_size=len(vocabulary), max_position_embeddings=LENGTH, hidden_size=CONTEXT, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=3,
    )  # fmt: skip
    return TextEncoder(clip=CLIPTextModel(config), tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, **names))


@functools.cache
def _frozen() -> tuple:
    torch.manual_seed(0)
    return latents().eval(), text_encoder().eval()


def system(kind=MultiViewSystem, *, joint=True, prediction="noise", **options) -> MultiViewSystem:
    """With the same weights at every call."""
    frozen = copy.deepcopy(_frozen())
    torch.manual_seed(1)
    return kind(denoiser=denoiser(joint=joint, prediction=prediction), latents=frozen[0], text_encoder=frozen[1],
                **options)  # fmt: skip


def objects(count=2) -> dict:
    """A batch of encoded objects."""
    draw = torch.Generator().manual_seed(2)
    return {
        "moments": torch.randn(count, VIEWS, 8, 8, 8, generator=draw),
        "camera": torch.randn(count, VIEWS, 16, generator=draw),
        "context": torch.randn(count, LENGTH, CONTEXT, generator=draw),
    }


def images(count=2, group=VIEWS) -> dict:
    """A batch of groups of encoded single images."""
    draw = torch.Generator().manual_seed(3)
    return {
        "moments": torch.randn(count, group, 8, 8, 8, generator=draw),
        "context": torch.randn(count, group, LENGTH, CONTEXT, generator=draw),
    }


def pictures(count=2, group=2) -> dict:
    """A batch of groups of single images with their captions, as `default_collate` makes it."""
    draw = torch.Generator().manual_seed(4)
    return {
        "pixels": torch.rand(count, group, 3, SIZE, SIZE, generator=draw) * 2 - 1,
        "caption": [tuple(f"a {word}" for _ in range(count)) for word in WORDS[1 : 1 + group]],
    }
