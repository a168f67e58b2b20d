"""Runs of the toy model, whole ones and disturbed ones."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from core import config as core_config
from core.training.run import run
from tests.training import toy


@pytest.fixture(autouse=True)
def toy_is_an_allowed_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_config, "ALLOWED", (*core_config.ALLOWED, "tests"))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Bit-for-bit promises hold for a fixed number of threads; forked children could not use more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder, threads = tmp_path_factory.mktemp("whole") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_config, "ALLOWED", (*core_config.ALLOWED, "tests"))
        run(toy.config(folder, model__journal=str(folder.parent / "journal.txt")))
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def in_child() -> Callable[[Callable[[], Any]], int]:
    """Calls a function in a forked process; returns its exit code, or minus the signal that killed it."""

    def call(work: Callable[[], Any]) -> int:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        code = 99
        try:
            work()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    return call
