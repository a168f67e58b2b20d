"""The generate and predict programs with an untrained model as small as they go: settings matter to it too."""

import pytest
import torch

from core.views import read_views
from data_tools.toybox.make import Recipe, make
from projects.syncdreamer import pipeline, predict, prediction
from projects.syncdreamer.system import SyncDreamerSystem
from tests.projects.syncdreamer import tiny
from tests.projects.syncdreamer.generating import FAST, a_picture, program

SIZE = 32  # of the small model's images


def system(*_) -> SyncDreamerSystem:
    """The same model at each call, as the programs use it."""
    torch.manual_seed(0)
    return tiny.system().eval().requires_grad_(False)


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both programs get the small model, which needs no weights, instead of the bundled one."""
    monkeypatch.setattr(pipeline, "load_system", system)
    monkeypatch.setattr(prediction, "instantiate", system)
    monkeypatch.setattr(prediction, "load_weights", lambda *_: None)


def generated(out, *settings) -> torch.Tensor:
    """RGB of one sample's views."""
    out.mkdir()
    a_picture().save(out / "a.png")
    program(f"input={out / 'a.png'}", f"out={out / 'made'}", *settings)
    return read_views(out / "made" / "a" / "0").images[:, :3]


def toybox(root, num_objects: int) -> None:
    list(make(root, Recipe(image_size=SIZE), {"test": num_objects}, num_workers=0))


def predicted(root, out, *settings) -> torch.Tensor:
    """RGB of the first object's views; `root` is a `toybox`."""
    predict.main([*FAST[:2], "device=cpu", f"root={root}", f"out={out}", "num_objects=1", *settings])
    return read_views(out / "test-00000").images[:, :3]
