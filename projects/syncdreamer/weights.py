"""Which weights a SyncDreamer gets: the bundled toybox ones, a finished run's, or the published checkpoint."""

from pathlib import Path

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import load_strict
from core.errors import MissingWeights
from core.models.bundled import WEIGHTS
from projects.syncdreamer.checkpoint import load_zero123, official_table

PUBLISHED = "syncdreamer-pretrain.ckpt"
OURS = "denoiser."
OFFICIAL_VOLUME = "spatial_volume."


def weights_file(name: str) -> Path:
    """A file as given, the `model.safetensors` of a folder, or a bundled model by name; MissingWeights otherwise."""
    for path in (Path(name), Path(name) / "model.safetensors", WEIGHTS / name / "model.safetensors"):
        if path.is_file():
            return path
    raise MissingWeights(
        f"no weights at {name!r}; put the published {PUBLISHED} there, pass weights=PATH, or use the bundled ones "
        "with +experiment=syncdreamer/toybox"
    )


def load_weights(system: nn.Module, path: Path) -> None:
    """Load all of a file into a `SyncDreamerSystem`, or raise BadCheckpoint.

    Our own files hold the denoiser (the autoencoder and the image encoder have theirs); published ones hold everything.
    """
    state = read_checkpoint(path)
    if any(key.startswith(OURS) for key in state):
        frozen = {k: v for k, v in system.state_dict().items() if not k.startswith(OURS)}
        load_strict(system, {**frozen, **state}, what=f"SyncDreamer from {path}")
    else:
        load_strict(system, official_table().read(state), what=f"SyncDreamer from {path}")


def load_start(system: nn.Module, name: str) -> None:
    """What a fine-tuning starts from: a SyncDreamer (all of it), or a Zero-1-to-3 (the rest stays fresh)."""
    try:
        path = weights_file(name)
    except MissingWeights as error:
        raise MissingWeights(
            f"no weights to start from at {name!r}; put zero123-xl.ckpt there, pass model.start=PATH, or start from "
            "scratch with model.start=null"
        ) from error
    keys = read_checkpoint(path).keys()
    if any(key.startswith((OURS, OFFICIAL_VOLUME)) for key in keys):
        load_weights(system, path)
    else:
        load_zero123(system, path)
