"""What files of ours say of a denoiser beside its weights: what its output means, and how its views see each other."""

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


def check_joint(configured: bool, trained: str | None, path: Path) -> None:
    """BadCheckpoint for weights of views that saw each other read by a model whose views do not, or the reverse.

    Args:
        configured: whether the denoiser's self-attention runs over all views.
        trained: "true" or "false"; None where nothing says so, as in published files: those are joint.
    """
    is_joint = trained != "false"
    if is_joint != configured:
        words = {True: "with", False: "without"}
        unsaid = " (or before that was written)" if trained is None else ""
        raise BadCheckpoint(
            f"{path}: these weights were trained {words[is_joint]} joint attention over the views{unsaid}, "
            f"model.denoiser.joint={str(configured).lower()} reads them {words[configured]} it; set "
            f"model.denoiser.joint={str(is_joint).lower()}"
        )
