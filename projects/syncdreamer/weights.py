"""Which weights a SyncDreamer gets: the bundled toybox ones, a finished run's, or the published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.prediction import check_prediction
from core.checkpoints.rename import load_strict
from core.checkpoints.tensorfiles import read_metadata
from core.models.bundled import weights_file
from core.training.denoising import PREDICTION
from projects.syncdreamer.checkpoint import load_zero123, official_table

MISSING = (  # what to do when no SyncDreamer is found
    "put the published syncdreamer-pretrain.ckpt there, pass weights=PATH, or use the bundled ones with "
    "+experiment=syncdreamer/toybox"
)
OURS = "denoiser."
OFFICIAL_VOLUME = "spatial_volume."


def load_weights(system: nn.Module, path: Path) -> None:
    """Load all of a file into a `SyncDreamerSystem`, or raise BadCheckpoint.

    Our own files hold the denoiser (the autoencoder and the image encoder have theirs); published ones hold everything.
    """
    state = read_checkpoint(path)
    ours = any(key.startswith(OURS) for key in state)
    # Files of ours from before this was written say nothing, and are taken as the model is configured.
    check_prediction(system.denoiser.prediction, read_metadata(path).get(PREDICTION) if ours else "noise", path)
    if ours:
        frozen = {k: v for k, v in system.state_dict().items() if not k.startswith(OURS)}
        load_strict(system, {**frozen, **state}, what=f"SyncDreamer from {path}")
    else:
        load_strict(system, official_table().read(state), what=f"SyncDreamer from {path}")


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
