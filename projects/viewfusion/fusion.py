"""Which views are made in which order, from which others, and with which weights (Yang et al. 2024, ViewFusion).

A plan is computed from poses alone, before anything is drawn: a list of `Step`s. The weights of a step's references do
not change while it is denoised.

One formula serves all: with offsets (angles) to the k inputs and to the generated views within the window,

    w_input     =      exp(-decay / inference_temp)  softmax(-offset / max offset)
    w_generated = (1 - exp(-decay / inference_temp)) softmax(-offset / max offset / auto_temp)

where decay grows from 0 to about 1 with the distance from the inputs. Circles, paths and lists differ in how they
measure offsets and decay. Where no generated view is within the window, the inputs have all the weight (the official
code fails there: for circles of fewer than 6 views).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from core.config import number
from projects.viewfusion.poses import circle, difference, path, relative, wrapped


@dataclass(frozen=True)
class Blending:
    """The official scripts' settings of the weights.

    Args:
        inference_temp: how slowly the inputs lose weight.
        auto_temp: how evenly generated views share theirs; a small one favours the nearest.
        window_deg: generated views at this angle or farther are no references; inputs always are.
    """

    inference_temp: float = 0.5
    auto_temp: float = 1.0
    window_deg: float = 125.0

    def __post_init__(self) -> None:
        for name in ("inference_temp", "auto_temp"):
            number(name, getattr(self, name), 0, above=True)
        number("window_deg", self.window_deg, 0, 180)


@dataclass(frozen=True)
class Step:
    """One view to make.

    Args:
        target: its pose, spherical.
        references: the known views that it is made from, in order: 0 to k - 1 are the inputs, then come the views of
            the plan's earlier steps.
        weights: of the references; they add up to 1.
        poses: the target relative to each reference, as Zero-1-to-3 reads it.
        wanted: False for a view on the way to a far target, which is made but not asked for.
    """

    target: Float[Tensor, "3"]
    references: tuple[int, ...]
    weights: Float[Tensor, "v"]
    poses: Float[Tensor, "v 4"]
    wanted: bool = True


def weights_of(
    inputs: Float[Tensor, "k"], generated: Float[Tensor, "m"], decay: float, blending: Blending
) -> Float[Tensor, "v"]:
    """The formula above; offsets in any one unit. Without generated views the inputs have all."""
    share = math.exp(-decay / blending.inference_temp) if len(generated) else 1.0
    own = share * (-_normalised(inputs)).softmax(0)
    others = (1 - share) * (-_normalised(generated) / blending.auto_temp).softmax(0)
    return torch.cat([own, others]).float()


def _normalised(offsets: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Divided by the largest; zeros stay, as two inputs that differ in radius alone have."""
    return offsets / offsets.max().clamp(min=1e-12) if len(offsets) else offsets


def circle_plan(inputs: Float[Tensor, "k 3"], num_views: int, blending: Blending = Blending()) -> list[Step]:
    """The views of a circle through the first input, beside that input itself.

    Offsets are azimuths the short way round; inputs at other heights are farther by the difference of their polar
    angles. Decay is the position in the order: (i + 1) / N for one input, i / (N - 1) for several, as officially.
    """
    inputs = inputs.double()
    targets = circle(inputs[0], num_views)
    heights = (inputs[:, 0] - inputs[0, 0]).abs()
    steps: list[Step] = []
    for i, target in enumerate(targets):
        known = torch.cat([inputs, targets[:i]])
        offsets = wrapped(target[1] - known[:, 1]).abs()
        offsets[: len(inputs)] += heights
        decay = (i + 1) / num_views if len(inputs) == 1 else i / (num_views - 1)
        steps.append(_step(target, known, offsets, len(inputs), decay, blending))
    return steps


def path_plan(
    start: Float[Tensor, "3"], offset: Float[Tensor, "3"], blending: Blending = Blending(), *, step_deg: float = 10.0
) -> list[Step]:
    """One target, `start + offset`, by way of views that lie `step_deg` apart; only the last is asked for.

    Offsets are |d_polar| + |d_azimuth|, decay that from the input in units of pi.
    """
    targets = path(start, offset, math.radians(step_deg))
    inputs = start.double()[None]
    steps = []
    for i, target in enumerate(targets):
        known = torch.cat([inputs, targets[:i]])
        offsets = (target - known)[:, :2].abs().sum(dim=-1)
        step = _step(target, known, offsets, 1, float(offsets[0]) / math.pi, blending)
        steps.append(replace(step, wanted=i == len(targets) - 1))
    return steps


def free_plan(
    inputs: Float[Tensor, "k 3"],
    targets: Float[Tensor, "n 3"],
    blending: Blending = Blending(),
    *,
    step_deg: float | None = None,
) -> tuple[list[Step], list[int]]:
    """Any targets from any inputs: the official rules for one target and for several inputs, joined.

    The target nearest to an input comes first. Offsets are |d_polar| + |d_azimuth|, the azimuth the short way round;
    decay is that from the nearest input, in units of pi. One input and one target with steps is `path_plan`.

    Args:
        step_deg: a target farther than this from all that is known is reached by way of views so far apart, from the
            nearest known one; None goes straight.

    Returns:
        The steps, and for each target the step that makes it.
    """
    inputs, targets = inputs.double(), targets.double()
    nearest = torch.stack([_angles(target, inputs).min() for target in targets])
    steps: list[Step] = []
    made = [0] * len(targets)
    known = inputs
    for number_ in nearest.argsort(stable=True).tolist():
        target = targets[number_]
        way = target[None]
        if step_deg is not None:
            start = known[_angles(target, known).argmin()]
            way = path(start, difference(target, start), math.radians(step_deg))
            way[-1] = target  # itself, not a turn away
        for place, pose in enumerate(way):
            offsets = _angles(pose, known)
            decay = float(offsets[: len(inputs)].min()) / math.pi
            step = _step(pose, known, offsets, len(inputs), decay, blending)
            steps.append(replace(step, wanted=place == len(way) - 1))
            known = torch.cat([known, pose[None]])
        made[number_] = len(steps) - 1
    return steps, made


def separate_plan(
    inputs: Float[Tensor, "k 3"],
    targets: Float[Tensor, "n 3"],
    blending: Blending = Blending(),
    *,
    step_deg: float,
) -> tuple[list[Step], list[int]]:
    """`free_plan` for each target as if it were the only one: no target has another's views for references."""
    steps: list[Step] = []
    made = []
    for target in targets:
        before = len(steps)
        for step in free_plan(inputs, target[None], blending, step_deg=step_deg)[0]:
            references = (r if r < len(inputs) else r + before for r in step.references)
            steps.append(replace(step, references=tuple(references)))
        made.append(len(steps) - 1)
    return steps, made


def nearest_only(steps: Sequence[Step], inputs: Float[Tensor, "k 3"], *, generated: bool) -> list[Step]:
    """The same views, each from the nearest reference alone: from an input, or also from a generated view."""
    known = torch.cat([inputs.double(), torch.stack([step.target for step in steps]).double()]) if steps else inputs
    simple = []
    for step in steps:
        candidates = [r for r in step.references if generated or r < len(inputs)]
        offsets = _angles(step.target, known[candidates])
        chosen = candidates[int(offsets.argmin())]
        pose = relative(step.target.double(), known[chosen])[None].float()
        simple.append(replace(step, references=(chosen,), weights=torch.ones(1), poses=pose))
    return simple


def _angles(target: Float[Tensor, "3"], known: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """|d_polar| + |d_azimuth|, the azimuth the short way round."""
    return (target[0] - known[:, 0]).abs() + wrapped(target[1] - known[:, 1]).abs()


def _step(
    target: Float[Tensor, "3"],
    known: Float[Tensor, "n 3"],
    offsets: Float[Tensor, "n"],
    num_inputs: int,
    decay: float,
    blending: Blending,
) -> Step:
    """A view from all inputs and from the generated views within the window, which is open: 125 degrees are outside."""
    within = offsets < math.radians(blending.window_deg) - 1e-6  # equal angles may differ in the last place
    within[:num_inputs] = True
    references = within.nonzero()[:, 0]
    weights = weights_of(offsets[:num_inputs], offsets[num_inputs:][within[num_inputs:]], decay, blending)
    poses = relative(target.expand(len(references), 3), known[references]).float()
    return Step(target, tuple(references.tolist()), weights, poses)
