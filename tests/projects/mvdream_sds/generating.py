"""The generate program with an untrained model as small as it goes, without Hydra, which takes most of a second."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from projects.mvdream_sds import generate, pipeline
from projects.mvdream_sds.pipeline import load_system
from projects.mvdream_sds.settings import Settings, check
from tests.projects.untrained import NO_ESTIMATE, settings_of, write_untrained

UNET = "{block_out_channels: [16, 16, 16], norm_num_groups: 8, attention_head_dim: 2}"
SMALL = ["+experiment=mvdream_sds/views_toybox", f"model.denoiser.unet={UNET}", "sample_steps=1", "samples=1",
         "device=cpu"]  # fmt: skip
SIZE = 64


@functools.cache
def base() -> dict[str, Any]:
    return settings_of(generate.main.program, [*SMALL, "prompt=a red cone"])


def weights(folder: Path) -> Path:
    """A file as training writes it."""
    return write_untrained(base()["model"], folder)


def config(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(base()) | changes


@functools.cache
def loaded(path: Path) -> torch.nn.Module:
    """The untrained model, which no run changes, read once."""
    return load_system(base()["model"], Settings.of(base()), [path], torch.device("cpu"))


def run(monkeypatch, **changes: Any) -> list[dict[str, Any]]:
    """The records of a run; what the program would print as one line is raised."""
    cfg = config(**changes)
    check(cfg)
    known = cfg["model"] == base()["model"] and cfg["lora"] is None
    load = (lambda model, settings, paths, device: loaded(paths[0])) if known else load_system
    monkeypatch.setattr(pipeline, "load_system", load)
    monkeypatch.setattr(pipeline, "estimate_memory", lambda *_: NO_ESTIMATE)
    return pipeline.generate(OmegaConf.create(cfg))
