"""What the generate program takes for done, when it is started again, and what it does not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from core.views import read_views
from tests.projects.syncdreamer.generating import BUNDLED, a_picture, program, run


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A picture and the results of a first run on it, for tests that run again."""
    folder = tmp_path_factory.mktemp("first")
    a_picture().save(folder / "a.png")
    program(f"input={folder / 'a.png'}", f"out={folder / 'out'}", "sample_num=2")
    return folder


@pytest.fixture
def made(first):
    return first / "out" / "a"


@pytest.fixture
def again(first, tmp_path):
    """A copy of the picture and its results, which a test may change, and the arguments of the first run."""
    shutil.copytree(first, tmp_path / "again")
    return tmp_path / "again"


def run_again(capsys, folder, *arguments):
    return run(capsys, f"input={folder / 'a.png'}", f"out={folder / 'out'}", "sample_num=2", *arguments)


def test_the_best_sample_has_a_name_of_its_own(made):
    best = json.loads((made / "ranking.json").read_text())["best"]
    assert torch.equal(read_views(made / "best").images, read_views(made / str(best)).images)


def test_another_picture_under_the_same_path_is_not_taken_for_done(again, capsys):
    Image.new("RGBA", (40, 30), (0, 0, 90, 255)).save(again / "a.png")
    code, err = run_again(capsys, again)
    assert code == 2 and "another input" in err and "done before" not in err


def test_a_folder_of_other_things_is_not_replaced_even_when_told(again, capsys):
    shutil.rmtree(again / "out" / "a")
    (again / "out" / "a").mkdir()
    (again / "out" / "a" / "thesis.txt").write_text("all of it")
    code, err = run_again(capsys, again, "overwrite=true")
    assert code == 2 and "choose another folder" in err
    assert (again / "out" / "a" / "thesis.txt").read_text() == "all of it"


def test_other_weights_under_the_same_name_are_not_taken_for_the_same(again, capsys):
    state = load_file(BUNDLED)
    weights = again / "model.safetensors"
    save_file(state, weights)  # the same numbers in another file: not known to be the same
    code, err = run_again(capsys, again, f"weights={weights}")
    assert code == 2 and "other settings or weights" in err


@pytest.mark.slow
def test_another_mask_under_the_same_path_is_not_taken_for_the_same(tmp_path, capsys):
    a_picture().save(tmp_path / "a.png")
    given = (f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}", f"mask={tmp_path / 'mask.png'}")
    for side, expected in ((5, 0), (6, 2)):
        mask = Image.new("L", (40, 30))
        mask.paste(255, (side, side, 20, 20))
        mask.save(tmp_path / "mask.png")
        code, err = run(capsys, *given)
        assert code == expected and "done before" not in err, err


def test_a_program_killed_before_its_line_was_written_finds_its_results_done(again, capsys):
    (again / "out" / "results.jsonl").unlink()
    code, err = run_again(capsys, again)
    assert code == 0 and "done before, skipped" in err
    (record,) = [json.loads(line) for line in (again / "out" / "results.jsonl").read_text().splitlines()]
    assert record["status"] == "skipped" and Path(record["folder"]) == again / "out" / "a"


@pytest.mark.slow
def test_results_that_lost_a_file_are_not_taken_for_done(again, capsys):
    (again / "out" / "a" / "best" / "transforms.json").unlink()
    code, err = run_again(capsys, again)
    assert code == 2 and "done before" not in err and "overwrite=true" in err


@pytest.mark.slow
def test_pictures_of_one_name_in_several_folders_get_folders_of_their_own(tmp_path, capsys):
    for name in ("chair", "table"):
        (tmp_path / "g" / name).mkdir(parents=True)
        a_picture().save(tmp_path / "g" / name / "000.png")
    given = (f"input={tmp_path / 'g' / '*' / '000.png'}", f"out={tmp_path / 'out'}")
    code, err = run(capsys, *given)
    assert code == 0, err
    for name in ("chair_000", "table_000"):
        assert (tmp_path / "out" / name / "best" / "transforms.json").is_file()
    code, err = run(capsys, *given)
    assert code == 0 and err.count("done before, skipped") == 2
