"""The doctor: a truthful table, whatever is missing or broken."""

from importlib.metadata import version

import pytest

from launch import doctor


def test_it_ends_well_and_names_every_package_and_program(capsys):
    assert doctor.main() == 0
    text = capsys.readouterr().out
    for name in [*doctor.required(), *(e[0] for e in (*doctor.ACCELERATORS, *doctor.OPTIONAL, *doctor.PROGRAMS))]:
        assert name in text
    assert "CUDA" in text and "weights" in text


def test_a_required_package_shows_its_version_and_the_pinned_one_if_another(monkeypatch):
    monkeypatch.setattr(doctor, "pins", lambda: {"numpy": "1.0"})
    finding = doctor.find_required("numpy")
    assert finding.usable and finding.found == version("numpy") and "tested with 1.0" in finding.note
    absent = doctor.find_required("no-such-package")
    assert not absent.usable and "make setup" in absent.note


def test_a_missing_accelerator_names_what_is_used_instead():
    finding = doctor.find_package("nothing", "no_such_module", "speed", "patience")
    assert not finding.usable and "instead: patience" in finding.note


def test_an_accelerator_that_cannot_be_imported_is_reported_and_not_used(tmp_path, monkeypatch):
    (tmp_path / "brokenaccelerator.py").write_text("raise OSError('undefined symbol: _ZN2at')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor.find_package("x", "brokenaccelerator", "speed", "patience", has_gpu=True)
    assert not finding.usable and "undefined symbol" in finding.note and "instead: patience" in finding.note
    without_gpu = doctor.find_package("x", "brokenaccelerator", "speed", "patience", has_gpu=False)
    assert not without_gpu.usable and "needs a GPU" in without_gpu.note


def test_a_check_that_breaks_is_a_line_of_the_table():
    def broken():
        raise RuntimeError("driver\nlost")

    assert doctor.check(broken, "x") == doctor.Finding("x", "", False, "broken: RuntimeError: driver lost")


@pytest.mark.parametrize(
    ("requirement", "name"),
    [("torch==2.13.0", "torch"), ("hydra_core>=1.3", "hydra-core"), ("PyYAML>=6; python_version>'3'", "pyyaml")]
    + [("a[b]~=1", "a"), ("plain", "plain")],
)
def test_a_requirement_begins_with_its_name(requirement, name):
    assert doctor._name_of(requirement) == name


def test_every_required_package_is_pinned():
    assert set(doctor.required()) <= set(doctor.pins())
