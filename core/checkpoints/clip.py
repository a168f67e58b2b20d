"""CLIP's towers (Radford et al. 2021) in OpenAI's and OpenCLIP's names -> transformers' classes.

The image tower becomes a `CLIPVisionModelWithProjection`, the text tower a `CLIPTextModel`. Theirs fuse q, k, v
(`in_proj_weight`), and the image tower multiplies its class token by `proj` from the right. OpenAI's activation is
x * sigmoid(1.702 x), `hidden_act="quick_gelu"`. transformers spells the image tower's first norm `pre_layrnorm`.
"""

from typing import Any

from core.checkpoints.ldm import Pairs, prefixed
from core.checkpoints.rename import NameTable, split_qkv, transpose

LAYER = [
    ("ln_1", "layer_norm1"),
    ("attn.q_proj", "self_attn.q_proj"),
    ("attn.k_proj", "self_attn.k_proj"),
    ("attn.v_proj", "self_attn.v_proj"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
]
TEXT_PARTS = ["positional_embedding", "text_projection", "logit_scale", "token_embedding", "ln_final", "transformer"]


def vision(*, num_layers: int, theirs: str = "", ours: str = "clip.") -> NameTable:
    """Table of the image tower.

    Args:
        theirs: prefix of the whole CLIP model, whose image tower lies under `visual.`; its text tower, or what an
            image-only checkpoint kept of it, is dropped.
        ours: prefix of the `CLIPVisionModelWithProjection`.
    """
    layers = [f"visual.transformer.resblocks.{n}" for n in range(num_layers)]
    return NameTable(
        prefixed(vision_pairs(num_layers), theirs, ours),
        [split_qkv(f"{theirs}{layer}.attn" for layer in layers), transpose([f"{theirs}visual.proj"])],
        {f"{theirs}{part}": "belongs to CLIP's text tower, which an image condition never runs" for part in TEXT_PARTS},
    )


def vision_pairs(num_layers: int) -> Pairs:
    """Module paths of the image tower, after q, k and v are split."""
    pairs = [
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.conv1", "vision_model.embeddings.patch_embedding"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("visual.proj", "visual_projection.weight"),
    ]
    for n in range(num_layers):
        pairs += prefixed(LAYER, f"visual.transformer.resblocks.{n}.", f"vision_model.encoder.layers.{n}.")
    return pairs


def openclip_text(*, num_layers: int, num_unread: int = 1, theirs: str = "", ours: str = "clip.") -> NameTable:
    """Table of OpenCLIP's text tower -> `CLIPTextModel`.

    Args:
        num_layers: of ours.
        num_unread: layers of theirs after those; 1 where the next to last hidden state is read, as by SD-2.
        theirs: prefix of the whole CLIP model; its image tower is not there.
    """
    blocks = f"{theirs}transformer.resblocks."
    pairs = [
        ("token_embedding", "embeddings.token_embedding"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("ln_final", "final_layer_norm"),
    ]
    for n in range(num_layers):
        pairs += prefixed(LAYER, f"transformer.resblocks.{n}.", f"encoder.layers.{n}.")
    dropped = {f"{blocks}{num_layers + n}": "comes after the hidden state that is read" for n in range(num_unread)}
    dropped[f"{theirs}text_projection"] = "projects the end mark into the space of images; all tokens are read instead"
    dropped[f"{theirs}logit_scale"] = "the temperature of CLIP's training"
    return NameTable(
        prefixed(pairs, theirs, ours), [split_qkv(f"{blocks}{n}.attn" for n in range(num_layers))], dropped
    )


def transformers_text(*, theirs: str = "text_model.", ours: str = "clip.") -> NameTable:
    """Table of a `CLIPTextModel` as older versions of transformers save it."""
    parts = ("embeddings", "encoder", "final_layer_norm")
    dropped = {f"{theirs}embeddings.position_ids": "a buffer that counts 0, 1, 2, ..., which is computed now"}
    return NameTable([(theirs + part, ours + part) for part in parts], dropped=dropped)


def vision_arguments(
    *, input_resolution: int, patch_size: int, width: int, layers: int, heads: int, output_dim: int
) -> dict[str, Any]:
    """Arguments of `transformers.CLIPVisionConfig`, from those of OpenAI's `VisionTransformer`."""
    return {
        "image_size": input_resolution,
        "patch_size": patch_size,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "projection_dim": output_dim,
        "hidden_act": "quick_gelu",
    }


def openclip_text_arguments(
    *, context_length: int, vocab_size: int, width: int, heads: int, layers: int, num_unread: int = 1
) -> dict[str, Any]:
    """Arguments of `transformers.CLIPTextConfig`, from those of OpenCLIP's text tower; `num_unread` as above."""
    return {
        "vocab_size": vocab_size,
        "max_position_embeddings": context_length,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers - num_unread,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
    }
