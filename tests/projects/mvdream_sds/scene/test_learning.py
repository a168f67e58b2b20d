"""The loop learns a shape from a teacher that knows it, and the exported mesh is that shape, in its colours."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from core import config as core_config
from core.compose import composed
from core.config import plain
from core.mesh.export import read_mesh
from core.metrics.shapes import chamfer, sample_surface
from core.program import Program
from core.training.run import run
from projects.mvdream_sds.scene.exporting import export
from projects.mvdream_sds.scene.filming import render
from tests.projects.mvdream_sds.scene.distilling import config, two_colored_ball

TEACHER = {"_target_": "tests.projects.mvdream_sds.scene.distilling.TrueViews", "_partial_": True, "image_size": 64}


def learn(out: Path, steps: int = 240) -> None:
    """A run at the toybox's own size, with a teacher that knows the answer."""
    toybox = config(Path("x"))["model"]["scene"]
    scene = {**toybox, "renderer": {**toybox["renderer"], "num_samples_per_ray": 64}}
    scene["geometry"]["encoding"] |= {"num_levels": 6, "log2_size": 13}
    scene["renderer"]["occupancy"]["resolution"] = 32
    settings = config(out, guidance=TEACHER, scene=scene, negative_prompt="")
    settings["model"]["cameras"] |= {"width": [24, 48], "height": [24, 48], "resolution_milestones": [steps * 2 // 3]}
    settings["model"]["orbit"] |= {"width": 64, "height": 64}
    settings["trainer"] |= {"max_steps": steps, "log_every": 20, "val_every": steps, "preview_every": steps // 2}
    settings["trainer"]["save_every"] = steps
    run(settings)


def program(name: str, *overrides: str):
    made = Program(name, None, "")
    cfg = composed(made, list(overrides))
    return OmegaConf.create({key: plain(cfg[key]) for key in made.keys if key in cfg and key != "model"})


@pytest.mark.slow
def test_a_known_shape_is_learnt_exported_and_filmed(tmp_path, monkeypatch):
    monkeypatch.setattr(core_config, "ALLOWED", (*core_config.ALLOWED, "tests"))
    learn(tmp_path / "run")
    rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    losses = [float(row[rows[0].index("loss")]) for row in rows[1:]]
    assert losses[-1] < 0.6 * losses[0]

    record = export(
        program(
            "mvdream_sds_export", f"run={tmp_path / 'run'}", f"out={tmp_path}", "texture_size=256",
            "isosurface.resolution=64",
        )
    )  # fmt: skip
    assert record["mesh"]["watertight"] and record["mesh"]["num_components"] == 1 and record["mesh"]["volume"] > 0
    assert record["fidelity"]["psnr"] > 20 and record["fidelity"]["silhouettes"] > 0.8
    found, truth = read_mesh(tmp_path / "mesh/mesh.glb"), two_colored_ball()
    assert chamfer(*(sample_surface(mesh, 4000, seed=0) for mesh in (found, truth))) < 0.04
    front, back = found.colors[found.vertices[:, 0] > 0.1], found.colors[found.vertices[:, 0] < -0.1]
    assert front[:, 0].mean() > front[:, 2].mean() + 0.3 and back[:, 2].mean() > back[:, 0].mean() + 0.3

    turn = render(program("mvdream_sds_render", f"run={tmp_path / 'run'}", f"out={tmp_path}", "num_views=6", "size=32"))
    assert turn["views"] == 6
    frames = json.loads((tmp_path / "orbit/views/transforms.json").read_text())["frames"]
    eyes = torch.tensor([frame["transform_matrix"] for frame in frames])[:, :2, 3]
    assert torch.pdist(eyes).min() > 0.9 * torch.pdist(eyes[:2]).min(), "evenly around, none of them twice"
