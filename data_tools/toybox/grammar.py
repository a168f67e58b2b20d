"""The grammar of toybox objects: what can stand on, under, beside or around what, and how to say it.

An object is a body with at most four more primitives. It faces +x, its left is +y, up is z. Front and back differ
always: where no small part tells them apart, the body's front is painted. `sample_object` is a pure function of
its generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float

from core.types import Mesh
from data_tools.toybox.primitives import PRIMITIVES, Triangles

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.13, 0.12),
    "orange": (0.98, 0.52, 0.08),
    "yellow": (0.97, 0.85, 0.14),
    "green": (0.16, 0.62, 0.20),
    "lime": (0.62, 0.88, 0.22),
    "cyan": (0.20, 0.80, 0.86),
    "blue": (0.13, 0.28, 0.86),
    "purple": (0.52, 0.18, 0.72),
    "pink": (0.97, 0.50, 0.70),
    "brown": (0.50, 0.29, 0.13),
    "gray": (0.55, 0.56, 0.58),
    "black": (0.13, 0.13, 0.15),
}
DISTANCE, VIEW_SLOPE = 1.5, 128 / 280  # the rig of SyncDreamer: how far it stands, and half its field of view
NUMBER_WORDS = {2: "two", 3: "three", 4: "four"}
FRONT, BACK, LEFT, RIGHT, UP = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1))
BODIES = ("box", "cube", "sphere", "cylinder", "cone", "capsule", "rounded box", "diamond", "torus")
ROUND = ("sphere", "capsule", "diamond", "torus")
SMALL = ("sphere", "cube", "cone", "cylinder", "capsule", "torus")


@dataclass(frozen=True)
class Part:
    """A primitive of one colour, placed: its own z axis points along `axis`."""

    kind: str
    color: str
    rgb: tuple[float, float, float]
    half: tuple[float, float, float]  # half extents along its own axes
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = UP
    front: str | None = None  # the colour of its painted front

    def mesh(self) -> Triangles:
        vertices, faces = PRIMITIVES[self.kind](self.half)
        return vertices @ _frame(self.axis).T + np.asarray(self.position), faces


@dataclass(frozen=True)
class ToyObject:
    """Parts, the body first, and the sentence that says exactly what they are."""

    parts: tuple[Part, ...]
    caption: str

    def mesh(self) -> Mesh:
        """All parts as one mesh, coloured; the longest side of its bounding box is 1, and the box is centred at 0."""
        vertices, faces, colors = [], [], []
        for part in self.parts:
            part_vertices, part_faces = part.mesh()
            part_vertices, part_faces, part_colors = _painted(part, part_vertices, part_faces)
            faces.append(part_faces + sum(len(v) for v in vertices))
            vertices.append(part_vertices)
            colors.append(part_colors)
        vertices = np.concatenate(vertices)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        vertices = (vertices - (low + high) / 2) / (high - low).max()
        return Mesh(
            vertices=torch.from_numpy(vertices).float(),
            faces=torch.from_numpy(np.concatenate(faces)).long(),
            colors=torch.from_numpy(np.concatenate(colors)).float(),
        )

    def to_dict(self) -> dict:
        return {"caption": self.caption, "parts": [asdict(part) for part in self.parts]}


def sample_object(rng: np.random.Generator) -> ToyObject:
    """One random object that no view cuts off."""
    while True:
        made = _draw(rng)
        if _fits_views(made.mesh()):
            return made


def _fits_views(mesh: Mesh) -> bool:
    """Whether every view that a data set may hold, from the lowest elevation to the highest, shows the whole object."""
    vertices = mesh.vertices.double().numpy()
    x, y, z = vertices.T
    for elevation in np.radians([-10.0, 10.0, 30.0, 40.0]):
        azimuth = (np.arange(16) * (2 * np.pi / 16))[:, None]
        outwards = x * np.cos(azimuth) + y * np.sin(azimuth)
        right = y * np.cos(azimuth) - x * np.sin(azimuth)
        up = z * np.cos(elevation) - outwards * np.sin(elevation)
        depth = DISTANCE - outwards * np.cos(elevation) - z * np.sin(elevation)
        if (np.maximum(np.abs(right), np.abs(up)) > VIEW_SLOPE * depth).any():
            return False
    return True


def _draw(rng: np.random.Generator) -> ToyObject:
    """A body, then clause after clause while there is room for their primitives."""
    colors = list(rng.permutation(list(COLORS)))
    draft = _Draft(rng, colors, body=_body(rng, colors.pop()))
    room = int(rng.choice([1, 2, 3, 4, 5], p=[0.08, 0.22, 0.26, 0.22, 0.22])) - 1
    while room > 0:
        clauses = [clause for clause in CLAUSES if clause.cost <= room and clause.fits(draft)]
        if not clauses:
            break
        weights = np.array([clause.weight for clause in clauses])
        clause = clauses[rng.choice(len(clauses), p=weights / weights.sum())]
        clause.add(draft)
        draft.used.add(clause.place)
        room -= clause.cost
    if not draft.used & {"front", "back"} or rng.random() < 0.15:
        draft.body = replace(draft.body, front=colors.pop())
    return ToyObject(parts=(draft.body, *draft.others), caption=_caption(draft))


@dataclass
class _Draft:
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


@dataclass(frozen=True)
class Clause:
    """One way to add to an object: at most one clause per place, `cost` primitives each."""

    place: str
    cost: int
    add: Callable[[_Draft], None]
    weight: float = 1.0
    bodies: tuple[str, ...] = BODIES

    def fits(self, draft: _Draft) -> bool:
        return self.place not in draft.used and draft.body.kind in self.bodies


def _body(rng: np.random.Generator, color: str) -> Part:
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
    return _part(rng, kind, color, half, axis=FRONT if kind == "torus" else UP)


def _on_top(draft: _Draft) -> None:
    below = draft.stack[-1] if draft.stack else draft.body
    reach = _extent(below)
    kind = str(draft.rng.choice(["box", "cube", "sphere", "cylinder", "cone", "capsule", "rounded box", "diamond"]))
    width = max(float(draft.rng.uniform(0.45, 0.85)) * min(*reach[:2], 0.42), 0.11)
    slim = {"cube": 1.0, "sphere": 1.0, "capsule": draft.rng.uniform(1.3, 2.0)}.get(kind, draft.rng.uniform(0.7, 1.5))
    part = _part(draft.rng, kind, draft.colors.pop(), [width, width, width * slim])
    # Round things sink in a little, so that they do not balance on one point; a cone's tip goes in deeper.
    sink = 0.12 * part.half[2] if kind in ROUND or below.kind in ROUND else 0.0
    sink += {"cone": 0.5, "diamond": 0.3}.get(below.kind, 0.0) * reach[2]
    part = replace(part, position=(0.0, 0.0, below.position[2] + reach[2] + part.half[2] - sink))
    draft.stack.append(part)
    draft.others.append(part)


def _tower(draft: _Draft) -> None:
    _on_top(draft)
    _on_top(draft)


def _on_front(draft: _Draft) -> None:
    _attach_one(draft, FRONT, "on its front")


def _on_back(draft: _Draft) -> None:
    _attach_one(draft, BACK, "on its back")


def _on_side(draft: _Draft) -> None:
    side, words = ((LEFT, "on its left side"), (RIGHT, "on its right side"))[draft.rng.integers(2)]
    _attach_one(draft, side, words)


def _eyes(draft: _Draft) -> None:
    across = float(draft.rng.uniform(0.35, 0.5)) * _extent(draft.body)[1]
    height = float(draft.rng.uniform(0.0, 0.35)) * _extent(draft.body)[2]
    eye = _small(draft, "sphere")
    draft.others += [_attached(draft.body, eye, FRONT, (0.0, y, height)) for y in (-across, across)]
    draft.features.append(f"two small {eye.color} spheres on its front")


def _arms(draft: _Draft) -> None:
    height = float(draft.rng.uniform(-0.1, 0.3)) * _extent(draft.body)[2]
    arm = _small(draft, str(draft.rng.choice(["capsule", "cone", "cylinder", "sphere"])))
    draft.others += [_attached(draft.body, arm, side, (0.0, 0.0, height)) for side in (LEFT, RIGHT)]
    draft.features.append(f"two small {arm.color} {_plural(arm.kind)} on its sides")


def _beside(draft: _Draft) -> None:
    side = (FRONT, LEFT, RIGHT)[draft.rng.integers(3)]
    words = {FRONT: "in front of", LEFT: "to the left of", RIGHT: "to the right of"}[side]
    size = float(draft.rng.uniform(0.12, 0.2))
    part = _part(draft.rng, str(draft.rng.choice(SMALL[:4])), draft.colors.pop(), [size, size, size])
    low, high = draft.bounds()
    reach = float(np.abs(np.where(np.array(side) > 0, high, low) * np.abs(side)).max())
    floor = float(low[2]) + size
    position = np.array(side) * (reach + size + 0.03) + [0, 0, floor]
    draft.others.append(replace(part, position=_triple(position)))
    draft.features.append(f"{_a(f'small {part.color} {part.kind}')} {words} it")


def _slab(draft: _Draft) -> None:
    kind = ("box", "cylinder")[draft.rng.integers(2)]
    low, _ = draft.bounds()
    reach = _extent(draft.body)
    grow = float(draft.rng.uniform(1.15, 1.45))
    half = [max(reach[0], 0.2) * grow, max(reach[1], 0.2) * grow, draft.rng.uniform(0.05, 0.08)]
    if kind == "cylinder":
        half[0] = half[1] = max(half[:2])
    part = _part(draft.rng, kind, draft.colors.pop(), half)
    draft.others.append(replace(part, position=(0.0, 0.0, float(low[2]) - part.half[2] + 0.01)))
    draft.support = f", standing on {_a(f'flat {part.color} {part.kind}')}"


def _legs(count: int) -> Callable[[_Draft], None]:
    def add(draft: _Draft) -> None:
        kind = str(draft.rng.choice(["cylinder", "box", "capsule", "sphere"]))
        thick = float(draft.rng.uniform(0.06, 0.09))
        long = thick if kind == "sphere" else float(draft.rng.uniform(0.18, 0.32))
        part = _part(draft.rng, kind, draft.colors.pop(), [thick, thick, long])
        reach, low = _extent(draft.body), draft.bounds()[0]
        spread = np.maximum(np.array(reach[:2]) * (0.85 if draft.body.kind in ("box", "cube") else 0.6) - thick, thick)
        sink = 0.05 if draft.body.kind in ("box", "cube", "cylinder", "cone") else 0.35 * reach[2]
        for angle in _around(count):
            # On the diagonals four legs stand under a box's corners.
            stretch = 1.35 if count == 4 else 1.0
            x, y = spread * stretch * [np.cos(angle), np.sin(angle)]
            draft.others.append(replace(part, position=(float(x), float(y), float(low[2]) + sink - long)))
        draft.support = f", on {NUMBER_WORDS[count]} {part.color} {part.kind} legs"

    return add


def _ring(count: int) -> Callable[[_Draft], None]:
    def add(draft: _Draft) -> None:
        size = float(draft.rng.uniform(0.09, 0.13))
        part = _part(draft.rng, str(draft.rng.choice(SMALL[:4])), draft.colors.pop(), [size, size, size])
        reach, (low, _) = _extent(draft.body), draft.bounds()
        diagonal = 1.3 if draft.body.kind in ("box", "cube", "rounded box") else 1.0
        radius = max(reach[:2]) * diagonal + size + 0.03
        for angle in _around(count):
            x, y = radius * np.cos(angle), radius * np.sin(angle)
            draft.others.append(replace(part, position=(float(x), float(y), float(low[2]) + size)))
        draft.features.append(f"a ring of {NUMBER_WORDS[count]} {part.color} {_plural(part.kind)} around it")

    return add


def _belt(draft: _Draft) -> None:
    """A torus worn by a round body."""
    radius, tube = draft.body.half[0], float(draft.rng.uniform(0.05, 0.08))
    part = _part(draft.rng, "torus", draft.colors.pop(), [radius + 1.2 * tube, radius + 1.2 * tube, tube])
    draft.others.append(part)
    draft.features.append(f"{_a(f'{part.color} torus')} around its middle")


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


def _attach_one(draft: _Draft, direction: tuple[int, int, int], where: str) -> None:
    height = float(draft.rng.uniform(-0.2, 0.35)) * _extent(draft.body)[2]
    part = _small(draft, str(draft.rng.choice(SMALL)))
    draft.others.append(_attached(draft.body, part, direction, (0.0, 0.0, height)))
    draft.features.append(f"{_a(f'small {part.color} {part.kind}')} {where}")


def _small(draft: _Draft, kind: str) -> Part:
    """A small part in a new colour, its size following the body's."""
    size = float(np.clip(draft.rng.uniform(0.28, 0.45) * min(_extent(draft.body)[1:]), 0.085, 0.16))
    slim = {"cone": 1.4, "cylinder": 1.2, "capsule": 1.7, "torus": 0.35}.get(kind, 1.0)
    return _part(draft.rng, kind, draft.colors.pop(), [size, size, size * slim])


def _attached(body: Part, part: Part, direction: tuple[int, int, int], through: tuple[float, float, float]) -> Part:
    """`part` half sunk into the body's surface, where the line along `direction` through a point leaves the body."""
    surface = _exit_point(*body.mesh(), np.array(through), np.array(direction, dtype=float))
    position = surface + 0.45 * part.half[2] * np.array(direction)
    return replace(part, position=_triple(position), axis=direction)


def _exit_point(vertices: np.ndarray, faces: np.ndarray, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where the line leaves the mesh for good (Moeller, Trumbore 1997); if it misses, the nearest vertex."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    normal = np.cross(direction, c - a)
    determinant = ((b - a) * normal).sum(-1)
    safe = np.where(np.abs(determinant) < 1e-12, np.inf, determinant)
    u = ((point - a) * normal).sum(-1) / safe
    across = np.cross(point - a, b - a)
    v = (across @ direction) / safe
    hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & np.isfinite(safe)
    if hit.any():
        return point + direction * (((c - a) * across).sum(-1) / safe)[hit].max()
    offset = vertices - point
    beside = np.linalg.norm(offset - (offset @ direction)[:, None] * direction, axis=-1)
    return vertices[np.argmin(beside - 1e-3 * (offset @ direction))]


def _part(rng: np.random.Generator, kind: str, color: str, half: Sequence[float], axis=UP) -> Part:
    tint = np.clip(np.array(COLORS[color]) + rng.uniform(-0.04, 0.04, size=3), 0.0, 1.0)
    return Part(kind=kind, color=color, rgb=_triple(tint), half=_triple(half), axis=axis)


def _extent(part: Part) -> tuple[float, float, float]:
    """Half extents along the world's axes, for a part whose axis is x, y or z."""
    return _triple(np.abs(_frame(part.axis)) @ np.array(part.half))


def _frame(axis: Sequence[float]) -> Float[np.ndarray, "3 3"]:
    """A rotation that takes z to `axis`, one of the six directions along the world's axes."""
    z = np.array(axis, dtype=float)
    x = np.array(LEFT if abs(z[0]) else FRONT, dtype=float)
    return np.stack([x, np.cross(z, x), z], axis=-1)


def _painted(part: Part, vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part's colours; a painted front gets vertices of its own, so that the paint has a sharp edge."""
    if part.front is None:
        return vertices, faces, np.tile(part.rgb, (len(vertices), 1))
    a, b, c = vertices[faces].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    level = np.linalg.norm(normal[:, :2], axis=-1)
    center = (a + b + c) / 3 - part.position
    front = (normal[:, 0] > 0.6 * level) & (level > 0.3) & (center[:, 0] > 0)
    colors = np.concatenate([np.tile(part.rgb, (len(vertices), 1)), np.tile(COLORS[part.front], (len(vertices), 1))])
    return np.concatenate([vertices, vertices]), faces + len(vertices) * front[:, None], colors


def _caption(draft: _Draft) -> str:
    """One sentence that names every part, its colour and its place."""
    body = draft.body
    _, width, height = _extent(body)
    shape = "tall " if height > 1.5 * width else "flat " if height < 0.6 * width else ""
    words = _a(f"{shape}{body.color} {body.kind}")
    if body.front:
        words += f" with {_a(f'{body.front} front')}"
    for part in draft.stack:
        words = f"{_a(f'{part.color} {part.kind}')} on top of {words}"
    words += draft.support
    if draft.features:
        words += ", with " + " and ".join(draft.features)
    return words


def _around(count: int) -> np.ndarray:
    """Angles of `count` things in a ring: three put one in front, four stand on the diagonals."""
    return (np.arange(count) + (0.5 if count == 4 else 0.0)) * (2 * np.pi / count)


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _plural(kind: str) -> str:
    return {"box": "boxes", "rounded box": "rounded boxes", "torus": "tori"}.get(kind, f"{kind}s")


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
