"""Learning-rate factors: functions of the step alone, so that nothing has to be restored when a run continues.

The rate of a step is the group's rate times the factor; the first step has number 0.
"""

import math
from collections.abc import Mapping
from typing import Any

from core.config import number, whole


def check_schedule(settings: Mapping[str, Any]) -> None:
    """Refuses numbers that none of the functions below means anything by; `settings` is the config's `schedule`."""
    for key in {"steps", "max_steps"} & set(settings):
        whole(f"schedule.{key}", settings[key], least=0)
    for key in {"start", "peak", "final"} & set(settings):
        number(f"schedule.{key}", settings[key], 0)
    if "hold" in settings:
        number("schedule.hold", settings["hold"], 0, 1)


def constant(step: int) -> float:
    """Always 1."""
    return 1.0


def warmup(step: int, steps: int, start: float = 0.0) -> float:
    """Rises linearly from `start` to 1 over `steps` steps and stays there."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def warmup_linear(
    step: int, steps: int, max_steps: int, start: float = 0.0, peak: float = 1.0, final: float = 1.0
) -> float:
    """Latent diffusion's `LambdaLinear`: rises from `start` to `peak`, then falls linearly to `final`, which holds."""
    if step < steps:
        return start + (peak - start) * step / steps
    # Quirk: the fall is counted from step 0, so where the warm-up ends the factor drops a little below `peak`.
    return peak + (final - peak) * min(1.0, step / max(1, max_steps))


def warmup_cosine(
    step: int, steps: int, max_steps: int, start: float = 0.0, final: float = 0.0, hold: float = 0.0
) -> float:
    """`warmup`, then half a cosine down to `final` at `max_steps` (Loshchilov and Hutter 2017), which then holds.

    The factor first stays at 1 for a fraction `hold` of the steps after the warm-up.
    """
    if step < steps:
        return warmup(step, steps, start)
    fall = steps + hold * (max_steps - steps)
    done = min(1.0, max(0.0, (step - fall) / max(1, max_steps - fall)))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
