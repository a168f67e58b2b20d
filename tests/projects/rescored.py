"""The bundled weights' scores of the first test objects, made again as their cards were: seeds 1, 2 and 3."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_tools.toybox.make import Recipe, make
from projects.benchmark import evaluate

SEEDS = (1, 2, 3)


def rescored(
    folder: Path, predict: Callable[[list[str]], Any], given: Sequence[str], *, protocol: str, objects: int
) -> dict[str, dict[str, float]]:
    """Scores by object, means of the seeds, of what a program `predict` makes with the settings `given`."""
    root, out = folder / "toybox", folder / "scores"
    list(make(root, Recipe(), {"train": 1, "val": 0, "test": objects}, num_workers=0))
    made = [folder / f"views-{seed}" for seed in SEEDS]
    for seed, views in zip(SEEDS, made, strict=True):
        predict([*given, f"seed={seed}", f"root={root}", f"out={views}", f"num_objects={objects}"])
    method = f"pred={{again: [{','.join(map(str, made))}]}}"
    chosen = [f"protocol={protocol}", f"protocol.num_objects={objects}", f"gt={root / 'test'}"]
    evaluate.main([method, *chosen, f"out={out}"])
    outcomes = json.loads((out / "scores.json").read_text())["objects"]["again"]
    assert len(outcomes) == objects
    return {name: outcome["scores"] for name, outcome in outcomes.items()}
