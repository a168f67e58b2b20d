"""Which weights a SyncDreamer gets: the bundled toybox ones, a finished run's, or the published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.ours import is_ours, load_ours
from core.checkpoints.prediction import check_prediction
from core.checkpoints.rename import load_strict
from core.models.bundled import weights_file
from projects.syncdreamer.checkpoint import load_zero123, official_table

MISSING = (  # what to do when no SyncDreamer is found
    "put the published syncdreamer-pretrain.ckpt there, pass weights=PATH, or use the bundled ones with "
    "+experiment=syncdreamer/toybox"
)
OFFICIAL_VOLUME = "spatial_volume."


def load_weights(system: nn.Module, path: Path) -> None:
    """Load all of a file, ours or published, into a `SyncDreamerSystem`, or raise BadCheckpoint."""
    if is_ours(path, advice=MISSING):
        load_ours(system, path, what="SyncDreamer")
        return
    state = read_checkpoint(path)
    check_prediction(system.denoiser.prediction, "noise", path)
    load_strict(system, official_table().read(state), what=f"SyncDreamer from {path}")


def load_start(system: nn.Module, name: str) -> None:
    """What a fine-tuning starts from: a SyncDreamer (all of it), or a Zero-1-to-3 (the rest stays fresh)."""
    path = weights_file(
        name,
        what="weights to start from",
        advice="put zero123-xl.ckpt there, pass model.start=PATH, or start from scratch with model.start=null",
    )
    if is_ours(path) or any(name.startswith(OFFICIAL_VOLUME) for name in read_checkpoint(path)):
        load_weights(system, path)
    else:
        load_zero123(system, path)
