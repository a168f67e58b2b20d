"""What tests of whole programs need: settings without starting Hydra, which takes most of a second; weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.compose import composed
from core.config import instantiate, plain
from core.estimate import Estimate
from core.program import Program
from core.settings import settings

# Estimating takes a second; each system's test_generate.py has a slow test of it.
NO_ESTIMATE = Estimate(0, 0, 0, 8, "32", torch.device("cpu"))


def settings_of(program: Program, arguments: list[str]) -> dict[str, Any]:
    return plain(settings(program, composed(program, arguments)))


def write_untrained(model: dict[str, Any], folder: Path) -> Path:
    """A file as training writes it."""
    torch.manual_seed(0)
    system = instantiate(model)
    path = folder / "model.safetensors"
    save_file(system.export(system.state_dict()), path, metadata=system.export_metadata())
    return path
