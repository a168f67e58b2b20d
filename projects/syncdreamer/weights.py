"""Which weights a SyncDreamer gets: the bundled toybox ones, a finished run's, or the published checkpoint."""

from pathlib import Path

from core.checkpoints.load import read_checkpoint
from core.checkpoints.rename import load_strict
from core.errors import MissingWeights
from core.models.bundled import WEIGHTS
from projects.syncdreamer.checkpoint import official_table
from projects.syncdreamer.system import SyncDreamerSystem

PUBLISHED = "syncdreamer-pretrain.ckpt"


def weights_file(name: str) -> Path:
    """A file as given, the `model.safetensors` of a folder, or a bundled model by name; MissingWeights otherwise."""
    for path in (Path(name), Path(name) / "model.safetensors", WEIGHTS / name / "model.safetensors"):
        if path.is_file():
            return path
    raise MissingWeights(
        f"no weights at {name!r}; put the published {PUBLISHED} there, pass weights=PATH, or use the bundled ones "
        "with +experiment=syncdreamer/toybox"
    )


def load_weights(system: SyncDreamerSystem, path: Path) -> None:
    """Load all of a file into the system, or raise BadCheckpoint.

    Our own files hold the denoiser (the autoencoder and the image encoder have theirs); published ones hold everything.
    """
    state = read_checkpoint(path)
    if any(key.startswith("denoiser.") for key in state):
        frozen = {k: v for k, v in system.state_dict().items() if not k.startswith("denoiser.")}
        load_strict(system, {**frozen, **state}, what=f"SyncDreamer from {path}")
    else:
        load_strict(system, official_table().read(state), what=f"SyncDreamer from {path}")
