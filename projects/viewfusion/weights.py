"""Which weights a Zero-1-to-3 gets: the bundled toybox ones, a finished run's, or a published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.ours import is_ours, load_ours
from core.checkpoints.prediction import check_prediction
from core.errors import BadCheckpoint
from core.models.bundled import weights_file
from projects.viewfusion import checkpoint

MISSING = (  # what to do when no Zero-1-to-3 is found
    "put the published zero123-xl.ckpt there, pass weights=PATH, or take the small bundled ones with "
    "+experiment=viewfusion/toybox"
)
WHAT = "Zero-1-to-3"


def load_weights(system: nn.Module, path: Path, *, ema: bool = True) -> None:
    """Load all of a file, ours or published, into a `Zero123System`, or raise BadCheckpoint.

    Args:
        ema: take the running average of the UNet. Our files hold nothing else, so that False is refused.
    """
    if not is_ours(path, advice=MISSING):
        checkpoint.load_official(system, path, ema=ema)
        check_prediction(system.denoiser.prediction, "noise", path)
    elif not ema:
        raise BadCheckpoint(f"{path}: holds averaged weights only; set ema=true")
    else:
        load_ours(system, path, what=WHAT)


def load_start(system: nn.Module, name: str) -> None:
    """What a training starts from: a Zero-1-to-3, published or ours, or an image-conditioned Stable Diffusion."""
    path = weights_file(
        name,
        what="weights to start from",
        advice="put sd-image-conditioned-v2.ckpt or zero123-xl.ckpt there, pass model.start=PATH, or start from "
        "scratch with model.start=null",
    )
    if is_ours(path):
        load_ours(system, path, what=WHAT)
    else:
        checkpoint.load_start(system, path)
        check_prediction(system.denoiser.prediction, "noise", path)
