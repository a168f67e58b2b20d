"""Which weights an MVDream gets: the bundled toybox ones, a finished run's, or a published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.ours import is_ours, load_ours
from core.checkpoints.prediction import check_joint, check_prediction
from core.models.bundled import weights_file
from projects.mvdream_sds import checkpoint

MISSING = (  # what to do when no MVDream is found
    "put the published sd-v2.1-base-4view.pt there, pass weights=PATH, or use the bundled small weights with "
    "+experiment=mvdream_sds/views_toybox (to 3D: mvdream_sds/toybox)"
)


def load_weights(system: nn.Module, path: Path, adapters: Path | None = None) -> None:
    """Load all of a file, ours or published, into a `MultiViewSystem`, or raise BadCheckpoint.

    Args:
        adapters: a file of low-rank adapters, which are merged into those weights.
    """
    if is_ours(path, advice=MISSING):
        load_ours(system, path, what="MVDream")
    else:
        checkpoint.load_official(system, path)
        check_prediction(system.denoiser.prediction, "noise", path)
        check_joint(system.denoiser.joint, None, path)
    if adapters is not None:
        from projects.mvdream_sds.lora import load_lora  # brings peft

        load_lora(system.denoiser, adapters)


def files_of(weights: str, adapters: str | None) -> list[Path]:
    """Both as files, the second where there is one; MissingWeights says what to do."""
    found = [weights_file(weights, advice=MISSING)]
    if adapters is not None:
        found.append(weights_file(adapters, what="adapters", advice="give the file of a training with model.lora"))
    return found
