"""What a denoiser's output means, noise or velocity, as files of ours say beside their weights."""

from pathlib import Path

from core.errors import BadCheckpoint


def check_prediction(configured: str, trained: str | None, path: Path) -> None:
    """BadCheckpoint for weights whose output means another thing: they would load, and make wrong pictures.

    The noise schedule needs no such check: it comes with the weights, as buffers.

    Args:
        configured: what the denoiser takes its output for.
        trained: what the weights predict; None where nothing says so, and they are taken as the model is configured.
    """
    if trained not in (None, configured):
        raise BadCheckpoint(
            f"{path}: these weights predict the {trained}, model.denoiser.prediction={configured} reads them as the "
            f"{configured}; set model.denoiser.prediction={trained}"
        )
