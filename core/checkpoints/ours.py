"""Weights files that our trainings and publishing write, and how a system gets all of one.

A file holds the denoiser, and those of the frozen networks around it that have no folder of their own (a bundled model,
or one in diffusers' form). Its metadata say what no tensor shows (`core.training.denoising.facts`).
"""

from pathlib import Path
from typing import Any

from torch import nn

from core.checkpoints.load import read_checkpoint
from core.checkpoints.prediction import check_joint, check_prediction
from core.checkpoints.rename import load_strict
from core.checkpoints.tensorfiles import read_header, read_metadata
from core.errors import BadCheckpoint, MissingWeights
from core.training.denoising import DENOISER, JOINT, PREDICTION, without_folder


def is_ours(path: Path, *, advice: str = "put it there or give another path") -> bool:
    """Whether a file is one that our training or publishing writes, from its header alone.

    Args:
        advice: what to do where there is no file, for the message of MissingWeights.
    """
    if not path.is_file():
        raise MissingWeights(f"no weights file {path}; {advice}")
    try:
        return any(name.startswith(f"{DENOISER}.") for name in read_header(path))
    except BadCheckpoint:  # one of torch's, or damaged, which `read_checkpoint` tells
        return False


def load_ours(system: nn.Module, path: Path, *, what: str) -> None:
    """Load all of a file of ours into a system with a `denoiser`, or raise BadCheckpoint.

    Frozen networks that the file lacks must have come from a folder of their own: others would stay random.

    Args:
        what: the model's name, for messages.
    """
    state, said = read_checkpoint(path), read_metadata(path)
    denoiser: Any = system.denoiser
    check_prediction(denoiser.prediction, said.get(PREDICTION), path)
    if hasattr(denoiser, "joint"):
        check_joint(denoiser.joint, said.get(JOINT), path)
    frozen = {name for name, _ in system.named_children()} - {DENOISER}
    lacking = sorted(name for name in frozen if not any(key.startswith(f"{name}.") for key in state))
    if random := [name for name in lacking if name in without_folder(system)]:
        raise BadCheckpoint(
            f"{path}: holds no {' and no '.join(random)}, and {' and '.join(f'model.{name}' for name in random)} "
            "of this configuration read no files either, so they would be random; choose the model= that the file "
            "was trained with, or train it again, which writes them too"
        )
    kept = tuple(f"{name}." for name in lacking)
    present = {name: value for name, value in system.state_dict().items() if name.startswith(kept)}
    load_strict(system, {**present, **state}, what=f"{what} from {path}")
