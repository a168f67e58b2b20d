"""The grammar of toybox objects: a body, and clauses for what stands on, under, beside or around it.

An object is a body with at most four more primitives. It faces +x, its left is +y, up is z. Front and back differ
always: where no small part tells them apart, the body's front is painted. `sample_object` is a pure function of
its generator.
"""

from dataclasses import replace

import numpy as np

from core.types import Mesh
from data_tools.toybox.clauses import CLAUSES
from data_tools.toybox.draft import Draft, draw_body, sentence
from data_tools.toybox.parts import COLORS, ToyObject

DISTANCE, VIEW_SLOPE = 1.5, 128 / 280  # the rig of SyncDreamer: how far it stands, and half its field of view


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
    draft = Draft(rng, colors, body=draw_body(rng, colors.pop()))
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
    return ToyObject(parts=(draft.body, *draft.others), caption=sentence(draft))
