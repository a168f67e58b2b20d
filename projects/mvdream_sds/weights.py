"""Which weights an MVDream gets: the bundled toybox ones, a finished run's, or a published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.prediction import check_prediction
from core.checkpoints.rename import load_strict
from core.checkpoints.tensorfiles import read_header, read_metadata
from core.errors import BadCheckpoint, MissingWeights
from core.training.denoising import PREDICTION
from projects.mvdream_sds import checkpoint

MISSING = (  # what to do when no MVDream is found
    "put the published sd-v2.1-base-4view.pt there, pass weights=PATH, or train the small ones (none are bundled yet): "
    "projects/mvdream_sds/README.md has the commands"
)
OURS = "denoiser."


def load_weights(system: nn.Module, path: Path) -> None:
    """Load all of a file into a `MultiViewSystem`, or raise BadCheckpoint.

    Our own files hold the denoiser (the autoencoder and the text encoder have theirs); published ones hold everything.
    """
    if not is_ours(path):
        checkpoint.load_official(system, path)
        check_prediction(system.denoiser.prediction, "noise", path)
        return
    check_prediction(system.denoiser.prediction, read_metadata(path).get(PREDICTION), path)
    frozen = {name: value for name, value in system.state_dict().items() if not name.startswith(OURS)}
    load_strict(system, {**frozen, **read_checkpoint(path)}, what=f"MVDream from {path}")


def is_ours(path: Path) -> bool:
    """Whether a file is one that our training or publishing writes, from its header alone."""
    if not path.is_file():
        raise MissingWeights(f"no weights file {path}; {MISSING}")
    try:
        return any(name.startswith(OURS) for name in read_header(path))
    except BadCheckpoint:  # one of torch's, or damaged, which `read_checkpoint` tells
        return False
