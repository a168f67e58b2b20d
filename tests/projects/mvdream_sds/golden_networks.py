"""What the parity tests share: networks of a fixture's size, read from an official file with rule-W weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from core.checkpoints import clip, ldm
from core.models.latents import Latents
from core.models.text import TextEncoder
from projects.mvdream_sds.checkpoint import ALPHAS, OPENCLIP, load_official, official_table
from projects.mvdream_sds.model import MultiViewDenoiser
from tests.golden_fixture import rule_w

UNET = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions", "channel_mult",
        "context_dim", "num_heads", "num_head_channels", "transformer_depth", "use_linear_in_transformer")  # fmt: skip
SMALL_UNET = {
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": 1, "attention_resolutions": [1],
    "channel_mult": [1, 2], "context_dim": 8, "num_heads": 2, "image_size": 8, "camera_dim": 16,
}  # fmt: skip
SMALL_VAE = {
    "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1],
    "num_res_blocks": 1, "attn_resolutions": [],
}  # fmt: skip
SMALL_TEXT = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 2, "layers": 2}
SCHEDULE = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
            "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
            "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1",
            "posterior_mean_coef2")  # fmt: skip


class Networks(nn.Module):
    """What a system has beside its training."""

    def __init__(self, denoiser: MultiViewDenoiser, latents: Latents, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.denoiser, self.latents, self.text_encoder = denoiser, latents, text_encoder


def close(actual, expected, tolerance=1e-4):
    """Networks agree relative to the output's maximum (`golden/README.md`)."""
    assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Of five words and three marks; it spells nothing out."""
    words = ["<pad>", "<start>", "<unknown>", "<end>", "a", "red", "cone", ","]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = {"bos_token": "<start>", "eos_token": "<end>", "unk_token": "<unknown>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def build(
    unet: Mapping[str, Any] = SMALL_UNET,
    vae: Mapping[str, Any] = SMALL_VAE,
    text: Mapping[str, Any] = SMALL_TEXT,
    embed_dim: int = 4,
    scaling_factor: float = 0.5,
    num_unread: int = 1,
) -> Networks:
    """Networks of official arguments, with initial weights."""
    arguments = ldm.unet_arguments(**{name: unet[name] for name in UNET if name in unet})
    backbone = UNet2DConditionModel(sample_size=unet["image_size"], **arguments)
    tower = clip.openclip_text_arguments(**text, num_unread=num_unread)
    return Networks(
        MultiViewDenoiser(unet=backbone, image_size=vae["resolution"], camera_dim=unet["camera_dim"]),
        Latents(AutoencoderKL(**ldm.vae_arguments(vae, embed_dim)), scaling_factor=scaling_factor),
        TextEncoder(clip=CLIPTextModel(CLIPTextConfig(**tower)), tokenizer=word_tokenizer()),
    )


def official_state(networks: Networks, *, embed_dim: int = 4) -> dict[str, torch.Tensor]:
    """What an official file would hold: rule W under official names, and what we leave out of it."""
    ours = {name: value for name, value in networks.state_dict().items() if name != ALPHAS}
    state = official_table(networks, "openclip").write(ours)
    for name in SCHEDULE:
        state.setdefault(name, torch.zeros_like(state["betas"]))
    config = networks.text_encoder.clip.config
    last = f"{OPENCLIP}transformer.resblocks.{config.num_hidden_layers}."
    first = f"{OPENCLIP}transformer.resblocks.0."
    state |= {last + k.removeprefix(first): torch.zeros_like(v) for k, v in state.items() if k.startswith(first)}
    state[f"{OPENCLIP}text_projection"] = torch.zeros(config.hidden_size, embed_dim)
    state[f"{OPENCLIP}logit_scale"] = torch.zeros(())
    return rule_w(state, exceptions=set(SCHEDULE))


def golden_networks(folder: Path, **architecture: Any) -> Networks:
    """Networks with rule-W weights, through a file as upstream writes it and our reader of such files."""
    networks = build(**architecture)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(official_state(networks), folder / "mvdream.pt")
    load_official(networks, folder / "mvdream.pt")
    return networks.eval()


def text_networks(folder: Path, info: Mapping[str, Any], *, num_unread: int) -> Networks:
    """With the text tower of a fixture."""
    return golden_networks(folder, text=info["text_cfg"], num_unread=num_unread)
