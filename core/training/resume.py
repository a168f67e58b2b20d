"""Which checkpoint a run continues from, and what may have changed since it was written."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.errors import BadCheckpoint, BadConfig
from core.training import checkpoints
from core.training.checkpoints import Snapshot
from core.training.module import TrainingModule

# What decides what a step reads or draws. Another number of devices keeps each epoch complete, but from the step of
# the change on, a step stands at another place of the epoch.
DATA_AFFECTING = ("seed", "data", "trainer.accumulate", "trainer.devices")
HARMLESS = ("data.workers", "data.timeout_s", "data.max_bad_fraction")
# What decides nothing about the weights of a run that takes no further step. `check_finished` sees to max_steps.
NOT_SHAPING = (
    *HARMLESS,
    *(
        f"trainer.{key}"
        for key in (
            "max_steps", "time_limit_min", "accelerator", "strategy", "deterministic", "log_every", "val_every",
            "val_batches", "preview_every", "preview_items", "save_every", "keep_last", "keep_every",
        )
    ),
)  # fmt: skip
# Which folders, which way to resume, and what is shown or written: no word is lost on these.
UNSAID = ("out", "publish", "resume", "force_resume", "logger", "name")


def choose(out: Path, resume: str, say: Callable[[str], None]) -> tuple[Snapshot | None, set[str]]:
    """The checkpoint to continue from (None: start at step 0), and the names of newer ones that are broken.

    Args:
        resume: "auto" takes the newest valid checkpoint in the run folder, "never" refuses a folder that has any, and
            a path takes that checkpoint as the starting point of a run folder that has none of its own yet.
    """
    root = out / "checkpoints"
    newest, causes = checkpoints.newest_valid(root)
    if resume not in ("auto", "never") and newest is None:
        return checkpoints.load(Path(resume)), set(causes)
    if resume == "never":
        if newest or causes:
            raise BadConfig(f"resume=never, but {str(out)!r} holds checkpoints; choose another out=, or resume=auto")
        return None, set()
    for name, cause in causes.items():
        say(f"checkpoint {name} is not valid: {cause}; it is left alone and an older one is tried")
    if newest is None:
        if causes:
            say(f"no valid checkpoint in {str(root)!r}: starting from step 0")
        return None, set(causes)
    return checkpoints.load(newest), set(causes)


def check_config(
    old: Mapping[str, Any], new: Mapping[str, Any], force: bool, say: Callable[[str], None], module: TrainingModule
) -> None:
    """Prints what changed since the checkpoint; a change of what steps read or draw needs `force`."""
    changes = {key: change for key, *change in differences(old, new) if not _under(key, UNSAID)}
    affecting, harmless = (*DATA_AFFECTING, *module.data_settings), (*HARMLESS, *module.harmless_settings)
    grave = [key for key in changes if _under(key, affecting) and not _under(key, harmless)]
    said = {module.setting_name(key): " -> ".join(map(str, change)) for key, change in changes.items()}
    for name, change in said.items():
        say(f"resuming with {name}: {change}")
    if grave and not force:
        names = dict.fromkeys(module.setting_name(key) for key in grave)
        listed = ", ".join(f"{name} {said[name]}" for name in names)
        raise BadConfig(
            f"this run was started with other settings of what it learns from ({listed}); "
            "set them back, or force_resume=true to go on"
        )


def check_finished(
    old: Mapping[str, Any], new: Mapping[str, Any], step: int, say: Callable[[str], None], module: TrainingModule
) -> None:
    """Refuses settings with which the `step` steps of a finished run were not taken; no step would follow them."""
    most = new["trainer"]["max_steps"]
    changes = shaping(old, new, module.harmless_settings)
    if step > most:
        changes["trainer.max_steps"] = (step, most)
    if changes:
        said = {module.setting_name(key): f"{before} -> {now}" for key, (before, now) in changes.items()}
        listed = ", ".join(f"{name} {change}" for name, change in said.items())
        raise BadConfig(
            f"the run in {str(new['out'])!r} is finished (step {step}), with other settings ({listed}); set them "
            "back, choose another out=, or raise trainer.max_steps to train on with them"
        )
    for key, before, now in differences(old, new):
        if _under(key, (*NOT_SHAPING, *module.harmless_settings)):
            say(f"{module.setting_name(key)}: {before} -> {now} changes nothing, since no step is left to take")


def shaping(
    old: Mapping[str, Any], new: Mapping[str, Any], harmless: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """What differs, of the settings that decide a run's weights: (before, now) by dotted key."""
    aside = (*UNSAID, *NOT_SHAPING, *harmless)
    return {key: (was, now) for key, was, now in differences(old, new) if not _under(key, aside)}


def check_frozen(old: str, new: str, force: bool) -> None:
    """The weights that a run leaves alone are not in its checkpoints, so they must be the same ones."""
    if old != new and not force:
        raise BadCheckpoint(
            "the frozen weights differ from those this run was started with; name the same files (weights=, lora=, "
            "model.start=), or force_resume=true to go on with these"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, before, now) of every leaf that differs; "-" stands for none, which is also what null means."""
    before, now = _flat(old), _flat(new)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            yield key, before.get(key, "-"), now.get(key, "-")


def _under(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
