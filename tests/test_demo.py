"""The demo's settings: what the toybox cannot have is refused before anything is made."""

import pytest

from core.data import toybox
from launch import demo


@pytest.mark.parametrize("argument", ["object=-1", "input_view=99", "input_view=16", "input_view=-1", "sample_num=0"])
def test_an_object_or_view_that_cannot_be_is_refused_before_any_program_starts(argument, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "run", lambda *arguments: pytest.fail(f"started {arguments}"))
    with pytest.raises(SystemExit) as stop:
        demo.main([argument, f"out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: {argument}: expected a whole number")
    assert error.count("\n") == 1


def test_the_demo_and_the_data_agree_on_the_number_of_views():
    assert demo.NUM_VIEWS == toybox.NUM_VIEWS
