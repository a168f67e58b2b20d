"""A toybox object under construction: its body, what was added so far, and the sentence that says so."""

from dataclasses import dataclass, field

import numpy as np

from data_tools.toybox.parts import FRONT, UP, Part, colored, extent

BODIES = ("box", "cube", "sphere", "cylinder", "cone", "capsule", "rounded box", "diamond", "torus")
ROUND = ("sphere", "capsule", "diamond", "torus")
SMALL = ("sphere", "cube", "cone", "cylinder", "capsule", "torus")
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}


@dataclass
class Draft:
    """An object under construction: the body, what was added, and the words for it."""

    rng: np.random.Generator
    colors: list[str]  # not used yet: no two clauses share a colour, so that a colour names a part
    body: Part
    others: list[Part] = field(default_factory=list)
    stack: list[Part] = field(default_factory=list)  # what stands on the body, from below
    support: str = ""
    features: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        vertices = np.concatenate([part.mesh()[0] for part in (self.body, *self.others)])
        return vertices.min(axis=0), vertices.max(axis=0)


def draw_body(rng: np.random.Generator, color: str) -> Part:
    """A body of random kind and proportions."""
    kind = str(rng.choice(BODIES, p=[0.17, 0.08, 0.14, 0.17, 0.10, 0.10, 0.10, 0.07, 0.07]))
    if kind in ("box", "rounded box"):
        half = rng.uniform([0.22, 0.25, 0.20], [0.40, 0.50, 0.50])
    elif kind in ("cube", "sphere"):
        half = np.full(3, 0.4)
    elif kind == "capsule":
        radius = rng.uniform(0.20, 0.30)
        half = [radius, radius, rng.uniform(radius + 0.1, 0.55)]
    elif kind == "torus":
        half = [0.45, 0.45, rng.uniform(0.10, 0.15)]
    else:
        radius = rng.uniform(0.25, 0.42)
        half = [radius, radius, rng.uniform(0.25, 0.5)]
    # A torus stands upright, its hole seen from the front, so that things can stand on it.
    return colored(rng, kind, color, half, axis=FRONT if kind == "torus" else UP)


def small_part(draft: Draft, kind: str) -> Part:
    """A small part in a new colour, its size following the body's."""
    size = float(np.clip(draft.rng.uniform(0.28, 0.45) * min(extent(draft.body)[1:]), 0.085, 0.16))
    slim = {"cone": 1.4, "cylinder": 1.2, "capsule": 1.7, "torus": 0.35}.get(kind, 1.0)
    return colored(draft.rng, kind, draft.colors.pop(), [size, size, size * slim])


def sentence(draft: Draft) -> str:
    """One sentence that names every part, its colour and its place."""
    body = draft.body
    _, width, height = extent(body)
    shape = "tall " if height > 1.5 * width else "flat " if height < 0.6 * width else ""
    words = article(f"{shape}{body.color} {body.kind}")
    if body.front:
        words += f" with {article(f'{body.front} front')}"
    for part in draft.stack:
        words = f"{article(f'{part.color} {part.kind}')} on top of {words}"
    words += draft.support
    if draft.features:
        words += ", with " + " and ".join(draft.features)
    return words


def article(words: str) -> str:
    """`words` after "a" or "an"."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def plural(kind: str) -> str:
    """Several of a kind of primitive."""
    return {"box": "boxes", "rounded box": "rounded boxes", "torus": "tori"}.get(kind, f"{kind}s")
