"""Ctrl-C while the toybox is made: exit code 130, whole objects only, and the next start goes on."""

import json
import os
import signal

import pytest

from core.views import validate_views
from data_tools.toybox import make, official
from data_tools.toybox.__main__ import main

SMALL = ["image_size=16", "supersample=1", "num_workers=0", "objects.train=3", "objects.val=0", "objects.test=0"]


def ctrl_c_in(patch, module, name, number):
    """The user interrupts the so-many-th call of a module's function, when its work is done."""
    function, calls = getattr(module, name), []

    def interrupted(*given, **options):
        calls.append(1)
        function(*given, **options)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(module, name, interrupted)


def interrupted(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 130 and "interrupted" in said and "Traceback" not in said


def test_objects_are_whole_or_missing_and_the_next_start_makes_the_missing(tmp_path, capsys, monkeypatch):
    root = tmp_path / "toybox"
    with monkeypatch.context() as patch:
        ctrl_c_in(patch, make, "write_ply", 2)  # views and mesh are there, caption and record are not
        interrupted(capsys, [f"out={root}", *SMALL])
    assert [path.name for path in root.glob("train/train-*")] == ["train-00000"]
    assert validate_views(root / "train" / "train-00000" / "target") == []
    assert not (root / "index.json").exists()
    main([f"out={root}", *SMALL])
    assert len(json.loads((root / "index.json").read_text())["splits"]["train"]) == 3
    assert sorted(path.name for path in (root / "train").iterdir()) == [f"train-0000{i}" for i in range(3)]


@pytest.mark.slow
def test_the_official_layout_is_interrupted_and_continued_as_well(tmp_path, capsys, monkeypatch):
    given = [f"out={tmp_path / 'toybox'}", *SMALL, f"official={tmp_path / 'official'}", "official_size=16"]
    with monkeypatch.context() as patch:
        ctrl_c_in(patch, official, "_write_views", 2)
        interrupted(capsys, given)
    folder = tmp_path / "official" / "train"
    assert not (folder / "uid_set.pkl").exists()
    assert [path.relative_to(folder).as_posix() for path in folder.glob("*/train-*")] == ["input/train-00000"]
    main(given)
    for part in ("input", "target"):
        assert sorted(path.name for path in (folder / part).iterdir()) == [f"train-0000{i}" for i in range(3)]
