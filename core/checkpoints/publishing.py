"""A finished training run's denoiser -> a small file of weights with its card."""

from pathlib import Path

from core.checkpoints.load import read_checkpoint
from core.checkpoints.tensorfiles import write_tensors
from core.errors import BadData
from core.files import atomic_folder, sha256_file
from core.models.bundled import CARD_FILE, MODEL_FILE
from core.training.denoising import PREDICTION
from core.training.publishing import RECORD_FILE, read_record, read_scores, trained_weights, write_card

HALVED = 1000  # a tensor of more numbers is published in 16 bits


def publish_denoiser(
    *, run: str, publish: str, scores: str | None, system: str, what: str, program: str = "train"
) -> int:
    """A run's denoiser with its large tensors in 16 bits, and its card, in the folder `publish`; returns their bytes.

    Args:
        scores: scores.json of projects.benchmark.evaluate, of views made with the published file; None before that.
        system: `_target_` of the models that the program publishes; BadData for a run that trained another.
        what: the card's sentence about the model.
        program: the project's module that trains such models, for messages.
    """
    path = trained_weights(run)
    model = read_record(path.with_name(RECORD_FILE))["config"]["model"]
    if model.get("_target_") != system:
        project = system.rpartition(".system.")[0]
        raise BadData(f"run={run} trained a {model.get('_target_')}; give a run folder of {project}.{program}")
    if model.get("lora"):
        raise BadData(f"run={run} trained adapters (model.lora), not a model; use its weights/{MODEL_FILE} as it is")
    weights = read_checkpoint(path)
    half = {name: tensor.half() if tensor.is_floating_point() and tensor.numel() > HALVED else tensor
            for name, tensor in weights.items()}  # fmt: skip
    with atomic_folder(Path(publish), overwrite=True, mark=CARD_FILE) as folder:
        write_tensors(folder / MODEL_FILE, half, {PREDICTION: model["denoiser"]["prediction"]})
        found = read_scores(scores, sha256_file(folder / MODEL_FILE)) if scores is not None else {}
        write_card(folder, run=run, what=what, replaces=Path(publish), **found)
    return sum(file.stat().st_size for file in Path(publish).iterdir())
