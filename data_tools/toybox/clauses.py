"""What can stand on, under, beside or around a toybox object's body: one clause each, with its words."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from data_tools.toybox.draft import BODIES, NUMBER_WORDS, ROUND, SMALL, Draft, article, plural, small_part
from data_tools.toybox.parts import BACK, FRONT, LEFT, RIGHT, attached, colored, extent, triple


@dataclass(frozen=True)
class Clause:
    """One way to add to an object: at most one clause per place, `cost` primitives each."""

    place: str
    cost: int
    add: Callable[[Draft], None]
    weight: float = 1.0
    bodies: tuple[str, ...] = BODIES

    def fits(self, draft: Draft) -> bool:
        return self.place not in draft.used and draft.body.kind in self.bodies


def _on_top(draft: Draft) -> None:
    below = draft.stack[-1] if draft.stack else draft.body
    reach = extent(below)
    kind = str(draft.rng.choice(["box", "cube", "sphere", "cylinder", "cone", "capsule", "rounded box", "diamond"]))
    width = max(float(draft.rng.uniform(0.45, 0.85)) * min(*reach[:2], 0.42), 0.11)
    slim = {"cube": 1.0, "sphere": 1.0, "capsule": draft.rng.uniform(1.3, 2.0)}.get(kind, draft.rng.uniform(0.7, 1.5))
    part = colored(draft.rng, kind, draft.colors.pop(), [width, width, width * slim])
    # Round things sink in a little, so that they do not balance on one point; a cone's tip goes in deeper.
    sink = 0.12 * part.half[2] if kind in ROUND or below.kind in ROUND else 0.0
    sink += {"cone": 0.5, "diamond": 0.3}.get(below.kind, 0.0) * reach[2]
    part = replace(part, position=(0.0, 0.0, below.position[2] + reach[2] + part.half[2] - sink))
    draft.stack.append(part)
    draft.others.append(part)


def _tower(draft: Draft) -> None:
    _on_top(draft)
    _on_top(draft)


def _on_front(draft: Draft) -> None:
    _attach_one(draft, FRONT, "on its front")


def _on_back(draft: Draft) -> None:
    _attach_one(draft, BACK, "on its back")


def _on_side(draft: Draft) -> None:
    side, words = ((LEFT, "on its left side"), (RIGHT, "on its right side"))[draft.rng.integers(2)]
    _attach_one(draft, side, words)


def _eyes(draft: Draft) -> None:
    across = float(draft.rng.uniform(0.35, 0.5)) * extent(draft.body)[1]
    height = float(draft.rng.uniform(0.0, 0.35)) * extent(draft.body)[2]
    eye = small_part(draft, "sphere")
    draft.others += [attached(draft.body, eye, FRONT, (0.0, y, height)) for y in (-across, across)]
    draft.features.append(f"two small {eye.color} spheres on its front")


def _arms(draft: Draft) -> None:
    height = float(draft.rng.uniform(-0.1, 0.3)) * extent(draft.body)[2]
    arm = small_part(draft, str(draft.rng.choice(["capsule", "cone", "cylinder", "sphere"])))
    draft.others += [attached(draft.body, arm, side, (0.0, 0.0, height)) for side in (LEFT, RIGHT)]
    draft.features.append(f"two small {arm.color} {plural(arm.kind)} on its sides")


def _beside(draft: Draft) -> None:
    side = (FRONT, LEFT, RIGHT)[draft.rng.integers(3)]
    words = {FRONT: "in front of", LEFT: "to the left of", RIGHT: "to the right of"}[side]
    size = float(draft.rng.uniform(0.12, 0.2))
    part = colored(draft.rng, str(draft.rng.choice(SMALL[:4])), draft.colors.pop(), [size, size, size])
    low, high = draft.bounds()
    reach = float(np.abs(np.where(np.array(side) > 0, high, low) * np.abs(side)).max())
    floor = float(low[2]) + size
    position = np.array(side) * (reach + size + 0.03) + [0, 0, floor]
    draft.others.append(replace(part, position=triple(position)))
    draft.features.append(f"{article(f'small {part.color} {part.kind}')} {words} it")


def _slab(draft: Draft) -> None:
    kind = ("box", "cylinder")[draft.rng.integers(2)]
    low, _ = draft.bounds()
    reach = extent(draft.body)
    grow = float(draft.rng.uniform(1.15, 1.45))
    half = [max(reach[0], 0.2) * grow, max(reach[1], 0.2) * grow, draft.rng.uniform(0.05, 0.08)]
    if kind == "cylinder":
        half[0] = half[1] = max(half[:2])
    part = colored(draft.rng, kind, draft.colors.pop(), half)
    draft.others.append(replace(part, position=(0.0, 0.0, float(low[2]) - part.half[2] + 0.01)))
    draft.support = f", standing on {article(f'flat {part.color} {part.kind}')}"


def _legs(count: int) -> Callable[[Draft], None]:
    def add(draft: Draft) -> None:
        kind = str(draft.rng.choice(["cylinder", "box", "capsule", "sphere"]))
        thick = float(draft.rng.uniform(0.06, 0.09))
        long = thick if kind == "sphere" else float(draft.rng.uniform(0.18, 0.32))
        part = colored(draft.rng, kind, draft.colors.pop(), [thick, thick, long])
        reach, low = extent(draft.body), draft.bounds()[0]
        spread = np.maximum(np.array(reach[:2]) * (0.85 if draft.body.kind in ("box", "cube") else 0.6) - thick, thick)
        sink = 0.05 if draft.body.kind in ("box", "cube", "cylinder", "cone") else 0.35 * reach[2]
        for angle in _around(count):
            # On the diagonals four legs stand under a box's corners.
            stretch = 1.35 if count == 4 else 1.0
            x, y = spread * stretch * [np.cos(angle), np.sin(angle)]
            draft.others.append(replace(part, position=(float(x), float(y), float(low[2]) + sink - long)))
        draft.support = f", on {NUMBER_WORDS[count]} {part.color} {part.kind} legs"

    return add


def _ring(count: int) -> Callable[[Draft], None]:
    def add(draft: Draft) -> None:
        size = float(draft.rng.uniform(0.09, 0.13))
        part = colored(draft.rng, str(draft.rng.choice(SMALL[:4])), draft.colors.pop(), [size, size, size])
        reach, (low, _) = extent(draft.body), draft.bounds()
        diagonal = 1.3 if draft.body.kind in ("box", "cube", "rounded box") else 1.0
        radius = max(reach[:2]) * diagonal + size + 0.03
        for angle in _around(count):
            x, y = radius * np.cos(angle), radius * np.sin(angle)
            draft.others.append(replace(part, position=(float(x), float(y), float(low[2]) + size)))
        draft.features.append(f"a ring of {NUMBER_WORDS[count]} {part.color} {plural(part.kind)} around it")

    return add


def _belt(draft: Draft) -> None:
    """A torus worn by a round body."""
    radius, tube = draft.body.half[0], float(draft.rng.uniform(0.05, 0.08))
    part = colored(draft.rng, "torus", draft.colors.pop(), [radius + 1.2 * tube, radius + 1.2 * tube, tube])
    draft.others.append(part)
    draft.features.append(f"{article(f'{part.color} torus')} around its middle")


def _attach_one(draft: Draft, direction: tuple[int, int, int], where: str) -> None:
    height = float(draft.rng.uniform(-0.2, 0.35)) * extent(draft.body)[2]
    part = small_part(draft, str(draft.rng.choice(SMALL)))
    draft.others.append(attached(draft.body, part, direction, (0.0, 0.0, height)))
    draft.features.append(f"{article(f'small {part.color} {part.kind}')} {where}")


def _around(count: int) -> np.ndarray:
    """Angles of `count` things in a ring: three put one in front, four stand on the diagonals."""
    return (np.arange(count) + (0.5 if count == 4 else 0.0)) * (2 * np.pi / count)


CLAUSES = (
    Clause("top", 1, _on_top, weight=2.0),
    Clause("top", 2, _tower),
    Clause("front", 1, _on_front, weight=1.5),
    Clause("front", 2, _eyes, weight=1.5, bodies=tuple(kind for kind in BODIES if kind != "torus")),
    Clause("side", 1, _on_side),
    Clause("side", 2, _arms),
    Clause("back", 1, _on_back),
    Clause("beside", 1, _beside),
    Clause("under", 1, _slab),
    Clause("under", 3, _legs(3), bodies=tuple(kind for kind in BODIES if kind not in ("torus", "diamond"))),
    Clause("under", 4, _legs(4), bodies=tuple(kind for kind in BODIES if kind not in ("torus", "diamond"))),
    Clause("beside", 3, _ring(3)),
    Clause("beside", 4, _ring(4)),
    Clause("around", 1, _belt, bodies=("sphere", "cylinder", "capsule")),
)
