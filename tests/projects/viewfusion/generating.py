"""The generate program with an untrained model as small as it goes, without Hydra, which takes most of a second."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from core.compose import composed
from core.config import instantiate, plain
from core.estimate import Estimate
from core.settings import settings
from projects.viewfusion import generate, pipeline
from projects.viewfusion.settings import check

UNET = "{block_out_channels: [16, 16, 16], norm_num_groups: 8, attention_head_dim: 2}"
SMALL = [
    "+experiment=viewfusion/toybox", f"model.denoiser.unet={UNET}", "sample_steps=1", "timestep_spacing=trailing",
    "drop_last=false", "device=cpu", "model.denoiser.distances=null",
]  # fmt: skip
SIZE = 64


@functools.cache
def base() -> dict[str, Any]:
    program = generate.main.program
    return plain(settings(program, composed(program, [*SMALL, "input=x"])))


def weights(folder: Path) -> Path:
    """A file as training writes it."""
    torch.manual_seed(0)
    system = instantiate(base()["model"])
    path = folder / "model.safetensors"
    save_file(system.export(system.state_dict()), path, metadata=system.export_metadata())
    return path


def config(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(base()) | changes


def run(monkeypatch, **changes: Any) -> list[dict[str, Any]]:
    """The records of a run; what the program would print as one line is raised."""
    cfg = config(**changes)
    check(cfg)
    # Estimating takes a second; test_generate.py has a slow test of it.
    monkeypatch.setattr(pipeline, "estimate_memory", lambda *_: Estimate(0, 0, 0, 8, "32", torch.device("cpu")))
    return pipeline.generate(OmegaConf.create(cfg))


def picture(path: Path, size=(40, 30), color=(200, 40, 30)) -> str:
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[5:-5, 8:-8] = (*color, 255)
    Image.fromarray(pixels).save(path)
    return str(path)
