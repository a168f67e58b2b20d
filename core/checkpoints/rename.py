"""Published names <-> our names.

A checkpoint's tensors are renamed by a table of module paths, theirs and ours; what a rename cannot express (a fused
projection, a transposed matrix) is a named `Change` beside it, and what we do not load is listed with its reason.
One `NameTable` serves both directions: `read` turns their state into ours, `write` turns ours back into theirs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.errors import BadCheckpoint

State = dict[str, Tensor]
NAMES_SHOWN = 20  # per group of a report; the counts are always complete

# What a foreign state dict probably is, by a key that only it has; the first match wins.
KINDS = [
    ("a low-rank adapter (LoRA)", "lora_"),
    ("a SyncDreamer trained here", "denoiser.volume."),
    ("a Zero-1-to-3 trained here", "denoiser.pose_projection."),
    ("an MVDream trained here", "denoiser.camera_embed."),
    ("a SyncDreamer checkpoint", "spatial_volume."),
    ("an MVDream checkpoint", "model.diffusion_model.camera_embed."),
    ("a Zero-1-to-3 checkpoint", "cc_projection."),
    ("a latent-diffusion checkpoint (Stable Diffusion in its original names)", "model.diffusion_model."),
    ("a latent-diffusion VAE in its original names", "encoder.down.0.block."),
    ("a PixArt transformer", "adaln_single."),
    ("a PixArt transformer in its original names", "y_embedder."),
    ("a Stable Video Diffusion UNet", "temporal_transformer_blocks"),
    ("a diffusers UNet", "time_embedding.linear_1."),
    ("a diffusers VAE", "encoder.down_blocks."),
    ("an OpenAI CLIP model", "visual.transformer.resblocks."),
    ("a transformers CLIP model", "vision_model."),
    ("a T5 text encoder", "encoder.block.0.layer."),
]


@dataclass(frozen=True)
class Change:
    """A change of tensors under *their* names: `read` before renaming theirs to ours, `write` after renaming back."""

    read: Callable[[State], State]
    write: Callable[[State], State]


@dataclass(frozen=True)
class NameTable:
    """Pairs of module paths (theirs, ours), the changes a rename cannot express, and what is dropped, with reasons."""

    pairs: list[tuple[str, str]]
    changes: list[Change] = field(default_factory=list)
    dropped: Mapping[str, str] = field(default_factory=dict)

    def __add__(self, other: "NameTable") -> "NameTable":
        return NameTable(
            [*self.pairs, *other.pairs], [*self.changes, *other.changes], {**self.dropped, **other.dropped}
        )

    def read(self, theirs: Mapping[str, Tensor]) -> State:
        """Their state dict under our names. A key that is neither known nor dropped is a `BadCheckpoint`."""
        state = without(theirs, self.dropped)
        for change in self.changes:
            state = change.read(state)
        return rename(state, self.pairs)

    def write(self, ours: Mapping[str, Tensor]) -> State:
        """Our state dict under their names; dropped tensors stay missing."""
        state = rename(ours, inverse(self.pairs))
        for change in reversed(self.changes):
            state = change.write(state)
        return state


def rename(state: Mapping[str, Tensor], pairs: Iterable[tuple[str, str]]) -> State:
    """Rename every tensor by its longest matching module path; a key that matches none is an error."""
    table = dict(pairs)
    renamed: State = {}
    sources: dict[str, str] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        parts = key.split(".")
        cuts = (n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in table)
        cut = next(cuts, None)
        if cut is None:
            unknown.append(key)
            continue
        name = ".".join([table[".".join(parts[:cut])], *parts[cut:]])
        if name in renamed:
            raise BadCheckpoint(f"checkpoint keys {sources[name]!r} and {key!r} both mean {name!r}; keep one of them")
        renamed[name], sources[name] = tensor, key
    if unknown:
        raise BadCheckpoint(
            f"{len(unknown)} of {len(state)} checkpoint keys match none of {len(table)} module paths "
            f"({_some(unknown)}); the file looks like {likely_kind(state)}: choose the experiment that reads such files"
        )
    return renamed


def inverse(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same table read from ours to theirs."""
    inverted = [(ours, theirs) for theirs, ours in pairs]
    assert len(dict(inverted)) == len(inverted), "two of their module paths share one of ours"
    return inverted


def without(state: Mapping[str, Tensor], dropped: Mapping[str, str]) -> State:
    """The state less every tensor at or below a module path listed in `dropped`."""

    def is_dropped(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[:n]) in dropped for n in range(1, len(parts) + 1))

    return {key: tensor for key, tensor in state.items() if not is_dropped(key)}


def squeeze_1x1(modules: Iterable[str]) -> Change:
    """1x1 convolutions of theirs (weights [out, in, 1, 1]) are linear layers of ours ([out, in])."""
    keys = {f"{module}.weight" for module in modules}

    def read(state: State) -> State:
        return {k: t[..., 0, 0] if k in keys and t.shape[2:] == (1, 1) else t for k, t in state.items()}

    def write(state: State) -> State:
        return {k: t[..., None, None] if k in keys and t.ndim == 2 else t for k, t in state.items()}

    return Change(read, write)


def transpose(keys: Iterable[str]) -> Change:
    """Matrices that they apply from the right (x @ W) and we from the left (Linear)."""
    keys = set(keys)

    def flip(state: State) -> State:
        return {k: t.mT if k in keys and t.ndim == 2 else t for k, t in state.items()}

    return Change(flip, flip)


def split_qkv(modules: Iterable[str]) -> Change:
    """`in_proj_weight` and `in_proj_bias` of torch's fused attention become `q_proj`, `k_proj` and `v_proj`.

    The fused rows are q, k, v in this order, a third each.
    """
    kinds = ("weight", "bias")
    fused = {f"{m}.in_proj_{kind}": [f"{m}.{x}_proj.{kind}" for x in "qkv"] for m in modules for kind in kinds}
    first = {parts[0]: (whole, parts) for whole, parts in fused.items()}
    rest = {part for parts in fused.values() for part in parts[1:]}

    def read(state: State) -> State:
        split: State = {}
        for key, tensor in state.items():
            if key in fused and tensor.shape[0] % 3 == 0:
                split.update(zip(fused[key], tensor.chunk(3), strict=True))
            else:
                split[key] = tensor
        return split

    def write(state: State) -> State:
        joined: State = {}
        for key, tensor in state.items():
            if key in first:
                whole, parts = first[key]
                joined[whole] = torch.cat([state[part] for part in parts])
            elif key not in rest:
                joined[key] = tensor
        return joined

    return Change(read, write)


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], *, what: str, dropped: Mapping[str, str] | None = None
) -> None:
    """Load `state` (our names) into `module`, all of it or nothing.

    Numbers are cast to the module's floating type: float16 into float32 is exact, float32 into bfloat16 rounds. A
    module on the meta device takes the tensors themselves, so that a memory-mapped file is not copied.

    Args:
        what: what is being loaded, for the message ("SyncDreamer from syncdreamer-pretrain.ckpt").
        dropped: module paths of `state` that are left out, each with its reason.
    """
    state = without(state, dropped or {})
    wanted = module.state_dict()
    groups = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "mismatched in shape": [
            f"{key} {list(state[key].shape)} instead of {list(wanted[key].shape)}"
            for key in wanted
            if key in state and state[key].shape != wanted[key].shape
        ],
        "mismatched in type": [
            f"{key} {state[key].dtype} instead of {wanted[key].dtype}"
            for key in wanted
            if key in state and state[key].is_floating_point() != wanted[key].is_floating_point()
        ],
    }
    faults = [f"{len(names)} {group} ({_some(names)})" for group, names in groups.items() if names]
    if faults:
        raise BadCheckpoint(
            f"{what}: the weights look like {likely_kind(state)}; check the file and the model's configuration against "
            f"each other: {', '.join(faults)}"
        )
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    if on_meta:
        state = {key: tensor.to(wanted[key].dtype) for key, tensor in state.items()}
    module.load_state_dict(state, strict=True, assign=on_meta)


def likely_kind(state: Mapping[str, Tensor]) -> str:
    """A guess, for messages only, of what a state dict belongs to."""
    for kind, mark in KINDS:
        if any(key.startswith(mark) or f".{mark}" in key or mark in key.split(".") for key in state):
            return kind
    return f"nothing known here (its first key is {next(iter(state))!r})" if state else "an empty file"


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f", and {more} more" if more > 0 else "")
