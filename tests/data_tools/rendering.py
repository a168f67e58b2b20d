"""What the tests of `data_tools.render` share: small meshes, and what a run left."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from omegaconf import OmegaConf

from core.cameras.rigs import rig
from core.config import CONF
from data_tools.render.__main__ import main
from data_tools.render.engines import Request
from data_tools.render.surface import Surface, normalise

SMALL = ["size=24", "workers=1"]
TINY = [*SMALL, "supersample=2"]
TRIANGLE = "v 0 0 0\nv 0 1 0\nv 0 0 1\n"


def settings(**changes) -> dict:
    """The program's, as it reads them: for tests that do without Hydra, which takes a good part of a second."""
    return {**OmegaConf.to_container(OmegaConf.load(CONF / "render.yaml")), "seed": 0, **changes}  # type: ignore[dict-item]


def ball(radius: float = 1.0, subdivisions: int = 2) -> trimesh.Trimesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    made.visual.vertex_colors = np.array([[200, 30, 30, 255]] * len(made.vertices), np.uint8)
    return made


def request(made: Surface, *, size: int = 32, views: int = 3, **options) -> Request:
    normalised, how = normalise(made, "unit_cube")
    cameras = rig("orbit", size=size, num_views=views, elevation_deg=20.0)
    return Request(Path(), normalised, how, cameras, True, True, {"supersample": 2, "shading": "none"} | options)


def contents(folder: Path) -> dict[str, str]:
    """Every file but the provenance, which holds the date and the command."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "provenance.json" and path.parent != folder
    }


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def refused(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error
