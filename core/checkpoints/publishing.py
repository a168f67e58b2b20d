"""A finished training run's denoiser -> a small file of weights with its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.checkpoints.load import read_checkpoint
from core.checkpoints.tensorfiles import write_tensors
from core.errors import BadData
from core.files import atomic_folder, sha256_file
from core.models.bundled import CARD_FILE, MODEL_FILE
from core.training.denoising import facts
from core.training.publishing import RECORD_FILE, read_record, read_scores, trained_weights, write_card

HALVED = 1000  # a tensor of more numbers is published in 16 bits


def publish_denoiser(
    *,
    run: str,
    publish: str,
    scores: str | None,
    system: str,
    what: str,
    program: str = "train",
    denoiser: Mapping[str, Any] | None = None,
    others: Mapping[str, str] | None = None,
) -> int:
    """A run's denoiser with its large tensors in 16 bits, and its card, in the folder `publish`; returns their bytes.

    Args:
        scores: scores.json of projects.benchmark.evaluate, of views made with the published file; None before that.
        system: `_target_` of the models that the program publishes; BadData for a run that trained another.
        what: the card's sentence about the model.
        program: the project's module that trains such models, for messages.
        denoiser: settings of `model.denoiser` that `what` speaks of; BadData for a run with others.
        others: sentences by the `_target_` of other models that the program publishes.
    """
    path = trained_weights(run)
    model = read_record(path.with_name(RECORD_FILE))["config"]["model"]
    sentences = {system: what, **(others or {})}
    if model.get("_target_") not in sentences:
        project = system.rpartition(".system.")[0]
        raise BadData(f"run={run} trained a {model.get('_target_')}; give a run folder of {project}.{program}")
    if model.get("lora"):
        raise BadData(f"run={run} trained adapters (model.lora), not a model; use its weights/{MODEL_FILE} as it is")
    for key, value in (denoiser or {}).items():
        if (found := model["denoiser"].get(key, value)) != value:
            raise BadData(
                f"run={run} has model.denoiser.{key}={str(found).lower()}, and the card would say otherwise; use its "
                f"weights/{MODEL_FILE} as it is (weights={run}/weights)"
            )
    weights = read_checkpoint(path)
    half = {name: tensor.half() if tensor.is_floating_point() and tensor.numel() > HALVED else tensor
            for name, tensor in weights.items()}  # fmt: skip
    said = facts(model["denoiser"]["prediction"], model["denoiser"].get("joint"))
    with atomic_folder(Path(publish), overwrite=True, mark=CARD_FILE) as folder:
        write_tensors(folder / MODEL_FILE, half, said)
        measured = read_scores(scores, sha256_file(folder / MODEL_FILE)) if scores is not None else {}
        write_card(folder, run=run, what=sentences[model["_target_"]], replaces=Path(publish), **measured)
    return sum(file.stat().st_size for file in Path(publish).iterdir())
