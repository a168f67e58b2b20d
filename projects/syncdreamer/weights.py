"""Which weights a SyncDreamer gets: the bundled toybox ones, a finished run's, or the published checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import load_strict
from core.checkpoints.tensorfiles import read_metadata
from core.errors import BadCheckpoint
from core.models.bundled import weights_file, weights_folder
from projects.syncdreamer.checkpoint import load_zero123, official_table

MISSING = (  # what to do when no SyncDreamer is found
    "put the published syncdreamer-pretrain.ckpt there, pass weights=PATH, or use the bundled ones with "
    "+experiment=syncdreamer/toybox"
)
OURS = "denoiser."
PREDICTION = "prediction"  # metadata key of our files: what the UNet's output means
OFFICIAL_VOLUME = "spatial_volume."


def load_weights(system: nn.Module, path: Path) -> None:
    """Load all of a file into a `SyncDreamerSystem`, or raise BadCheckpoint.

    Our own files hold the denoiser (the autoencoder and the image encoder have theirs); published ones hold everything.
    """
    state = read_checkpoint(path)
    ours = any(key.startswith(OURS) for key in state)
    # Files of ours from before this was written say nothing, and are taken as the model is configured.
    check_prediction(system, read_metadata(path).get(PREDICTION) if ours else "noise", path)
    if ours:
        frozen = {k: v for k, v in system.state_dict().items() if not k.startswith(OURS)}
        load_strict(system, {**frozen, **state}, what=f"SyncDreamer from {path}")
    else:
        load_strict(system, official_table().read(state), what=f"SyncDreamer from {path}")


def check_prediction(system: nn.Module, trained: str | None, path: Path) -> None:
    """BadCheckpoint for weights whose output means another thing: they would load, and make wrong pictures.

    The noise schedule needs no such check: it comes with the weights, as buffers.
    """
    configured = system.denoiser.prediction
    if trained not in (None, configured):
        raise BadCheckpoint(
            f"{path}: these weights predict the {trained}, model.denoiser.prediction={configured} reads them as the "
            f"{configured}; set model.denoiser.prediction={trained}"
        )


def frozen_files(model: Mapping[str, Any]) -> dict[str, Path]:
    """Weights that have files of their own, the bundled autoencoder's and image encoder's, by name."""
    names = [model[part]["folder"] for part in ("latents", "image_encoder") if "folder" in model[part]]
    found: dict[str, Path] = {}
    for name in names:
        folder = weights_folder(name)
        found |= {f"{folder.name}/{p.relative_to(folder)}": p for p in sorted(folder.rglob("*.safetensors"))}
    return found


def load_start(system: nn.Module, name: str) -> None:
    """What a fine-tuning starts from: a SyncDreamer (all of it), or a Zero-1-to-3 (the rest stays fresh)."""
    path = weights_file(
        name,
        what="weights to start from",
        advice="put zero123-xl.ckpt there, pass model.start=PATH, or start from scratch with model.start=null",
    )
    keys = read_checkpoint(path).keys()
    if any(key.startswith((OURS, OFFICIAL_VOLUME)) for key in keys):
        load_weights(system, path)
    else:
        load_zero123(system, path)
