"""The model's settings as programs read them that take whole weights: how it was taught is dropped, and said."""

from collections.abc import Callable
from typing import Any

from core.models.bundled import without_start
from projects.mvdream_sds.settings import TEACHING, system_of


def without_training(config: dict[str, Any], say: Callable[[str], Any]) -> dict[str, Any]:
    """The settings without those of `model` that only a training reads, and a line for what they said.

    A model that was taught a subject is afterwards like any other, so its settings are those of a `MultiViewSystem`.
    """
    config = without_start(config, say)
    model = dict(config["model"])
    if model["lora"] is not None:
        say("model.lora is how adapters are trained, not read here")
        model["lora"] = None
    if (system := system_of(model)) != model["_target_"]:
        say(f"model._target_={model['_target_']} is how a subject is taught, not read here: weights= has it")
        model = {key: value for key, value in model.items() if key not in TEACHING} | {"_target_": system}
    return {**config, "model": model}
