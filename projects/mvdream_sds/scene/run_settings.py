"""The settings of `train` as the trainer reads them, and what they may be. Loads no torch."""

from collections.abc import Mapping
from typing import Any

from core.config import number, one_of
from core.errors import BadConfig
from core.training.settings import check_settings
from projects.mvdream_sds.scene.annealing import check_bounds, check_schedule
from projects.mvdream_sds.settings import check_text, system_of

STAGES = ("full", "lowres", "highres")
VIEW_DEPENDENT = ("off", "after", "before")
NOTHING = "projects.mvdream_sds.scene.data.Nothing"
PASSED_ON = ("name", "seed", "out", "resume", "force_resume", "optimizer", "schedule", "trainer", "logger")
OF_MODEL = (
    "scene",
    "weights",
    "lora",
    "cameras",
    "losses",
    "rates",
    "orbit",
    "prompt",
    "negative_prompt",
    "text_cache",
    "recompute",
)
TAUGHT_BY = ("denoiser", "latents", "text_encoder")  # of the multi-view model; the rest is how it was trained


def check(cfg: Mapping[str, Any]) -> None:
    """Refuse what no scene can be optimised with."""
    for key in ("prompt", "negative_prompt"):
        check_text(key, cfg[key])
    if not str(cfg["prompt"]).strip():
        raise BadConfig("prompt is empty; describe an object, such as prompt='a red cube on a blue cylinder'")
    if cfg["lora"] is not None and cfg["weights"] is None:
        raise BadConfig(f"lora={cfg['lora']}: adapters go onto a model's weights; give weights=, or set lora=null")
    one_of("stage", cfg["stage"], STAGES)
    if cfg["view_dependent"] is not False:  # what YAML makes of an off without quotes
        one_of("view_dependent", cfg["view_dependent"], VIEW_DEPENDENT)
    for key in ("front_threshold", "back_threshold"):
        number(key, cfg[key], 0, 180)
    number("overhead_threshold", cfg["overhead_threshold"], -90, 90)
    if cfg["stage"] != "full":
        milestone(cfg)
    _check_schedules(cfg["guidance"], cfg["losses"])
    check_settings(distillation(cfg))


def _check_schedules(guidance: Mapping[str, Any], losses: Mapping[str, Any]) -> None:
    """Refuse at once what would else be refused when the networks are loaded, or fail at a late step."""
    bounds = [name for name in ("min_step_percent", "max_step_percent") if name in guidance]
    if len(bounds) == 2:  # an overlay may put another class there
        low, high = bounds
        check_bounds(f"guidance.{low}", guidance[low], f"guidance.{high}", guidance[high])
    for name, schedule in losses.items():
        if not name.startswith("_"):  # _target_
            check_schedule(f"losses.{name}", schedule)


def distillation(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """`core.training.run`'s settings of a run."""
    model = {key: cfg[key] for key in OF_MODEL} | {
        "_target_": "projects.mvdream_sds.scene.system.ScoreDistillation",
        "guidance": cfg["guidance"],
        "teacher": {key: cfg["model"][key] for key in TAUGHT_BY} | {"_target_": system_of(cfg["model"])},
        "directions": directions(cfg),
    }
    # The prompt stands for the data: a run does not go on with another one.
    said = {key: str(cfg[key]) for key in ("prompt", "negative_prompt")}
    nothing = {"_target_": NOTHING}
    data = {"train": nothing, "val": nothing, "preview": nothing, "batch_size": 1, "workers": 0, "timeout_s": 60}
    config = {key: cfg[key] for key in PASSED_ON} | {"model": {**model, **said}, "data": {**data, **said}}
    config["data"]["max_bad_fraction"] = 0
    if cfg["stage"] == "lowres":
        trainer = cfg["trainer"]
        config["trainer"] = {**trainer, "max_steps": min(trainer["max_steps"], milestone(cfg))}
    return config


def directions(cfg: Mapping[str, Any]) -> dict[str, Any] | None:
    """When views are called by where they look from; None where they are not."""
    if cfg["view_dependent"] in ("off", False):
        return None
    degrees = {key: float(cfg[f"{key}_threshold"]) for key in ("front", "back", "overhead")}
    return {"words": cfg["view_dependent"], **degrees}


def milestone(cfg: Mapping[str, Any]) -> int:
    """The step at which the low-resolution stage ends."""
    milestones = cfg["cameras"]["resolution_milestones"]
    if not milestones:
        raise BadConfig(
            f"stage={cfg['stage']}: this configuration has one resolution (cameras.resolution_milestones is empty); "
            "set stage=full"
        )
    return int(milestones[0])
