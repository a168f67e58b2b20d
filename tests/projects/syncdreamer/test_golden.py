"""SyncDreamer equals the official code: every fixture of `golden/syncdreamer`, by the tests of the folder `golden`.

They are collected here and nowhere else: pytest takes no file of that folder for tests. Weights come from official
names by rule W, through the project's own table of names; no number of theirs stands in a test.
"""

import importlib
from pathlib import Path

from tests.projects.syncdreamer.golden.camera import *  # noqa: F403
from tests.projects.syncdreamer.golden.data import *  # noqa: F403
from tests.projects.syncdreamer.golden.encoders import *  # noqa: F403
from tests.projects.syncdreamer.golden.metrics import *  # noqa: F403
from tests.projects.syncdreamer.golden.networks import *  # noqa: F403
from tests.projects.syncdreamer.golden.neus import *  # noqa: F403
from tests.projects.syncdreamer.golden.schedule import *  # noqa: F403
from tests.projects.syncdreamer.golden.system import *  # noqa: F403
from tests.projects.syncdreamer.golden.volumes import *  # noqa: F403


def test_no_test_of_the_folder_is_left_out_or_hidden_by_another_of_its_name():
    for path in sorted((Path(__file__).parent / "golden").glob("*.py")):
        module = importlib.import_module(f"tests.projects.syncdreamer.golden.{path.stem}")
        for name, value in vars(module).items():
            if name.startswith("test_"):
                assert globals().get(name) is value, f"{path.name}: {name}"
