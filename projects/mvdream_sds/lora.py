"""Low-rank adapters of the UNet's attentions (Hu et al. 2021, LoRA), through peft.

An adapter file holds them alone, under diffusers' names, and says their rank and scale in its metadata. It goes onto a
denoiser whose own weights were loaded before; merged into those, nothing of peft is left.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.prediction import check_joint, check_prediction
from core.checkpoints.tensorfiles import read_metadata
from core.config import number, suggestion, whole
from core.errors import BadCheckpoint, BadConfig, MissingWeights
from core.training.denoising import JOINT, PREDICTION

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
ADAPTER = "default"  # peft's name of the only one
METADATA = "lora_adapter_metadata"  # diffusers' key
OURS, THEIRS = "denoiser.unet.", "unet."
UNREAD = ("use_rslora", "alpha_pattern", "rank_pattern")  # of peft: other scales than alpha / rank, by layer or root
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class LoraSettings:
    """W x + (alpha / rank) B A x in every attention's queries, keys, values and output; B is zero at first."""

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole("lora.rank", self.rank)
        number("lora.alpha", self.alpha, 0, above=True)
        number("lora.dropout", self.dropout, 0, 1)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "LoraSettings":
        """From a config; BadConfig for keys that it lacks."""
        known = {field.name for field in fields(cls)}
        for key in settings:
            if key not in known:
                raise BadConfig(f"model.lora: unknown key {key!r}; {suggestion(str(key), known)}")
        return cls(**settings)

    def metadata(self) -> dict[str, str]:
        """What an adapter file says beside its tensors."""
        said = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": list(TARGETS)}
        return {METADATA: json.dumps({THEIRS + key: value for key, value in said.items()}, sort_keys=True)}


def add_lora(denoiser: nn.Module, settings: LoraSettings) -> None:
    """Puts fresh adapters into the UNet's attentions; they alone learn, all else of the denoiser is frozen."""
    denoiser.requires_grad_(False)
    _inject(denoiser.unet, list(TARGETS), settings.rank, settings.alpha, settings.dropout)
    for name, parameter in denoiser.unet.named_parameters():
        parameter.requires_grad_(f".{ADAPTER}." in name)


def export_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapters of a `MultiViewSystem`'s state, under diffusers' names."""
    return {
        THEIRS + name.removeprefix(OURS).replace(f".{ADAPTER}.", "."): value
        for name, value in state.items()
        if f".{ADAPTER}." in name
    }


def load_lora(denoiser: nn.Module, path: str | Path) -> None:
    """Merges an adapter file into a denoiser that has its weights, so that it costs nothing; errors as of `attach`."""
    attach(denoiser, path)
    merge_lora(denoiser)


def attach(denoiser: nn.Module, path: str | Path) -> None:
    """Puts the adapters of a file beside a denoiser's weights.

    Files without metadata (of diffusers' training scripts) have a scale of 1, as diffusers reads them.

    Raises:
        MissingWeights: there is no such file.
        BadCheckpoint: it holds no adapters, or those of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeights(f"lora={path}: no such file; give the adapters that a training with model.lora wrote")
    state = read_checkpoint(path)
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    check_prediction(denoiser.prediction, metadata.get(PREDICTION), path)
    if JOINT in metadata:  # of others' files nobody knows
        check_joint(denoiser.joint, metadata[JOINT], path)
    modules = _modules_of(state, denoiser.unet, path)
    rank = state[THEIRS + modules[0] + DOWN].shape[0]
    _inject(denoiser.unet, modules, rank, _alpha(metadata, rank, path))
    parameters = dict(denoiser.unet.named_parameters())
    with torch.no_grad():
        for name in modules:
            for kind in (DOWN, UP):
                parameters[name + kind.replace(".weight", f".{ADAPTER}.weight")].copy_(state[THEIRS + name + kind])
    denoiser.unet.requires_grad_(False)


def merge_lora(denoiser: nn.Module) -> None:
    """Adds the adapters' products to the weights, and takes the adapters away."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(denoiser.unet.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            denoiser.unet.set_submodule(name, layer.get_base_layer())


def _inject(unet: nn.Module, modules: list[str], rank: int, alpha: float, dropout: float = 0.0) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # it takes a second to load

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules)
    inject_adapter_in_model(config, unet, adapter_name=ADAPTER)


def _modules_of(state: Mapping[str, Tensor], unet: nn.Module, path: Path) -> list[str]:
    """The layers that a file adapts; BadCheckpoint for what the UNet lacks, and for files of something else."""
    stems = {name.removesuffix(kind) for name in state for kind in (DOWN, UP) if name.endswith(kind)}
    whole_pairs = {stem + kind for stem in stems for kind in (DOWN, UP)}
    if not stems or set(state) != whole_pairs or not all(stem.startswith(THEIRS) for stem in stems):
        odd = [*sorted(set(state) ^ whole_pairs), *sorted(state), "it is empty"][0]
        raise BadCheckpoint(f"{path}: no adapters of a UNet ({odd}); wanted are pairs unet.*{DOWN} and {UP}")
    if len({state[stem + DOWN].shape[0] for stem in stems}) > 1:
        raise BadCheckpoint(f"{path}: adapters of several ranks; only those of one rank can be read")
    modules = sorted(stem.removeprefix(THEIRS) for stem in stems)
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, nn.Linear)}
    if strange := [name for name in modules if name not in layers]:
        raise BadCheckpoint(
            f"{path}: {len(strange)} of {len(modules)} adapters are of layers that this model lacks ({strange[0]}): "
            "they belong to another model"
        )
    for name in modules:
        given = (state[THEIRS + name + DOWN].shape[1], state[THEIRS + name + UP].shape[0])
        wanted = (layers[name].in_features, layers[name].out_features)
        if given != wanted:
            raise BadCheckpoint(
                f"{path}: {name} takes {given[0]} numbers to {given[1]}, in this model {wanted[0]} to {wanted[1]}: "
                "adapters of another model"
            )
    return modules


def _said(metadata: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """What the file says of its adapters; None where it says nothing. BadCheckpoint for what is not read here."""
    if METADATA not in metadata:
        return None
    try:
        said = {key.removeprefix(THEIRS): value for key, value in dict(json.loads(metadata[METADATA])).items()}
    except (ValueError, TypeError) as error:
        raise BadCheckpoint(f"{path}: its metadata tell no scale of the adapters ({error})") from error
    if unread := [key for key in UNREAD if said.get(key)]:
        raise BadCheckpoint(
            f"{path}: its adapters are scaled by {', '.join(unread)}, which is not read here; merge them with the "
            "library that made them, or train with one rank and alpha for all"
        )
    return said


def _alpha(metadata: Mapping[str, str], rank: int, path: Path) -> float:
    said = _said(metadata, path)
    if said is None:
        return float(rank)
    try:
        return float(said["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(f"{path}: its metadata tell no scale of the adapters ({error})") from error
