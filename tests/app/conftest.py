"""What the tests of programs share: the toy program and its configs, in a folder of the test's own."""

import shutil
from pathlib import Path
from textwrap import dedent

import pytest

from core.config import CONF
from tests.app.toy_program import FILES, Toy


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    """A folder of configs with two programs that share a model; the test runs beside it."""
    folder = tmp_path / "conf"
    for shared in ("base", "hydra"):
        shutil.copytree(CONF / shared, folder / shared)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text).lstrip())
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def toy(conf, capsys) -> Toy:
    return Toy(conf, capsys)
