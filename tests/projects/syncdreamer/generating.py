"""Calling the generate program as a user does."""

import functools
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from core.models.bundled import WEIGHTS
from projects.syncdreamer import estimate, generate, pipeline

ROOT = Path(__file__).resolve().parents[3]
FAST = ["+experiment=syncdreamer/toybox", "sample_steps=1", "sample_num=1", "device=cpu"]
BUNDLED = WEIGHTS / "syncdreamer_toybox" / "model.safetensors"


def a_picture(size=(40, 30), mode="RGBA"):
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[5:-5, 8:-8] = (200, 40, 30, 255)
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert(mode)


@functools.cache
def _estimated(model: str, settings, device):
    return estimate.estimate_memory(json.loads(model), settings, device)


def program(*arguments):
    """The program; of equal settings the memory is estimated once, since that takes a second."""
    remembered = lambda model, settings, device: _estimated(json.dumps(model), settings, device)  # noqa: E731
    with patch.object(pipeline, "estimate_memory", remembered):
        generate.main([*FAST, *arguments])


def run(capsys, *arguments):
    """Exit code and what stood on stderr."""
    code = 0
    try:
        program(*arguments)
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr().err


def refused(capsys, out, *arguments, words, code=2):
    """One line that says why, the exit code, and nothing under a final name."""
    found, err = run(capsys, f"out={out}", *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert found == code, err
    assert len(lines) == 1 and "Traceback" not in err
    for word in words:
        assert word in lines[0]
    assert not list(Path(out).rglob("transforms.json")) and not list(Path(out).rglob("contact_sheet.png"))
    assert not list(Path(out).rglob(".tmp-*"))
