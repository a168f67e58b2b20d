"""Which weights an MVDream gets: the bundled toybox ones, a finished run's, or a published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.ours import is_ours, load_ours
from core.checkpoints.prediction import check_joint, check_prediction
from projects.mvdream_sds import checkpoint

MISSING = (  # what to do when no MVDream is found
    "put the published sd-v2.1-base-4view.pt there, pass weights=PATH, or use the bundled small weights with "
    "+experiment=mvdream_sds/views_toybox (to 3D: mvdream_sds/toybox)"
)


def load_weights(system: nn.Module, path: Path) -> None:
    """Load all of a file, ours or published, into a `MultiViewSystem`, or raise BadCheckpoint."""
    if is_ours(path, advice=MISSING):
        load_ours(system, path, what="MVDream")
        return
    checkpoint.load_official(system, path)
    check_prediction(system.denoiser.prediction, "noise", path)
    check_joint(system.denoiser.joint, None, path)
