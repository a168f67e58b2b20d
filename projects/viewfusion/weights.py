"""Which weights a Zero-1-to-3 gets: the bundled toybox ones, a finished run's, or a published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.prediction import check_prediction
from core.checkpoints.rename import load_strict
from core.checkpoints.tensorfiles import read_header, read_metadata
from core.errors import BadCheckpoint, MissingWeights
from core.models.bundled import weights_file
from core.training.denoising import PREDICTION
from projects.viewfusion import checkpoint

MISSING = (  # what to do when no Zero-1-to-3 is found
    "put the published zero123-xl.ckpt there, pass weights=PATH, or take the small bundled ones with "
    "+experiment=viewfusion/toybox"
)
OURS = "denoiser."


def load_weights(system: nn.Module, path: Path, *, ema: bool = True) -> None:
    """Load all of a file into a `Zero123System`, or raise BadCheckpoint.

    Our own files hold the denoiser (the autoencoder and the image encoder have theirs); published ones hold everything.

    Args:
        ema: take the running average of the UNet. Our files hold nothing else, so that False is refused.
    """
    if not is_ours(path):
        checkpoint.load_official(system, path, ema=ema)
        check_prediction(system.denoiser.prediction, "noise", path)
    elif not ema:
        raise BadCheckpoint(f"{path}: holds averaged weights only; set ema=true")
    else:
        _load_denoiser(system, path)


def load_start(system: nn.Module, name: str) -> None:
    """What a training starts from: a Zero-1-to-3, published or ours, or an image-conditioned Stable Diffusion."""
    path = weights_file(
        name,
        what="weights to start from",
        advice="put sd-image-conditioned-v2.ckpt or zero123-xl.ckpt there, pass model.start=PATH, or start from "
        "scratch with model.start=null",
    )
    if is_ours(path):
        _load_denoiser(system, path)
    else:
        checkpoint.load_start(system, path)
        check_prediction(system.denoiser.prediction, "noise", path)


def is_ours(path: Path) -> bool:
    """Whether a file is one that our training or publishing writes, from its header alone."""
    if not path.is_file():
        raise MissingWeights(f"no weights file {path}; {MISSING}")
    try:
        return any(name.startswith(OURS) for name in read_header(path))
    except BadCheckpoint:  # one of torch's, or damaged, which `read_checkpoint` tells
        return False


def _load_denoiser(system: nn.Module, path: Path) -> None:
    check_prediction(system.denoiser.prediction, read_metadata(path).get(PREDICTION), path)
    frozen = {name: value for name, value in system.state_dict().items() if not name.startswith(OURS)}
    load_strict(system, {**frozen, **read_checkpoint(path)}, what=f"Zero-1-to-3 from {path}")
