"""The two stages of a run, low resolution and high, when they are run one at a time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import BadRequest
from core.training import checkpoints
from projects.mvdream_sds.scene.run_settings import milestone


def starting_point(cfg: Mapping[str, Any]) -> str:
    """What `resume` is to be: a run's folder stands for its newest checkpoint.

    Raises BadRequest for a high-resolution stage without the low-resolution one's end to start from.
    """
    resume = str(cfg["resume"])
    root = Path(resume) / "checkpoints"
    if resume not in ("auto", "never") and root.is_dir():
        newest, causes = checkpoints.newest_valid(root)
        if newest is None:
            raise BadRequest(f"resume={resume}: this run has no valid checkpoint ({causes or 'none was saved'})")
        resume = str(newest)
    if cfg["stage"] == "highres":
        _check_lowres_is_done(cfg, resume)
    return resume


def _check_lowres_is_done(cfg: Mapping[str, Any], resume: str) -> None:
    newest, _ = checkpoints.newest_valid(Path(cfg["out"]) / "checkpoints")
    if newest is None and resume not in ("auto", "never"):
        newest = Path(resume)
        if checkpoints.NAME.fullmatch(newest.name) is None:
            return  # what it is instead, the trainer says
    wanted = milestone(cfg)
    if newest is None:
        raise BadRequest(
            f"stage=highres: no checkpoint in {str(cfg['out'])!r}; run stage=lowres with the same out= first, or give "
            "resume=DIR, the folder of such a run"
        )
    if checkpoints.step_of(newest) < wanted:
        raise BadRequest(
            f"stage=highres: {str(newest)!r} is of step {checkpoints.step_of(newest)}, the low-resolution stage ends "
            f"at {wanted}; finish it first (stage=lowres), or run both as one (stage=full)"
        )
