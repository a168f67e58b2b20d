"""The generate program with an untrained model as small as it goes, without Hydra, which takes most of a second."""

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from projects.viewfusion import generate, pipeline
from projects.viewfusion.settings import check
from tests.projects.untrained import NO_ESTIMATE, settings_of, write_untrained

UNET = "{block_out_channels: [16, 16, 16], norm_num_groups: 8, attention_head_dim: 2}"
SMALL = [
    "+experiment=viewfusion/toybox", f"model.denoiser.unet={UNET}", "sample_steps=1", "timestep_spacing=trailing",
    "drop_last=false", "device=cpu", "model.denoiser.distances=null",
]  # fmt: skip
SIZE = 64


@functools.cache
def base() -> dict[str, Any]:
    return settings_of(generate.main.program, [*SMALL, "input=x"])


def weights(folder: Path) -> Path:
    """A file as training writes it."""
    return write_untrained(base()["model"], folder)


def config(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(base()) | changes


def run(monkeypatch, **changes: Any) -> list[dict[str, Any]]:
    """The records of a run; what the program would print as one line is raised."""
    cfg = config(**changes)
    check(cfg)
    monkeypatch.setattr(pipeline, "estimate_memory", lambda *_: NO_ESTIMATE)
    return pipeline.generate(OmegaConf.create(cfg))


def picture(path: Path, size=(40, 30), color=(200, 40, 30)) -> str:
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[5:-5, 8:-8] = (*color, 255)
    Image.fromarray(pixels).save(path)
    return str(path)
