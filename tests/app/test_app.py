"""Programs from the command line: what they get, how they end, and the record they leave."""

import json
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from core.app import app
from core.errors import BadImage
from core.provenance import keep_earlier_record


def test_a_program_gets_its_settings_resolved_and_leaves_a_record(toy):
    code, _ = toy("seed=7", "out=runs/one")
    (cfg,) = toy.seen
    assert code == 0 and cfg.seed == 7 and cfg.lr == 1e-4 and cfg.model.seed == 3
    folder = Path(cfg.out)
    assert folder == Path("runs/one").resolve()
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 7
    assert yaml.safe_load((folder / "overrides.yaml").read_text()) == ["seed=7", "out=runs/one"]
    record = json.loads((folder / "provenance.json").read_text())
    assert record["seed"] == 7 and record["config"]["steps"] == 10 and len(record["config_hash"]) == 64


def test_the_run_folder_bears_name_and_date_by_default(toy):
    toy()
    relative = Path(toy.seen[0].out).relative_to(Path.cwd())
    assert relative.parts[:2] == ("outputs", "toy") and len(relative.parts) == 4


def test_one_overlay_serves_two_programs_and_each_sees_its_own_part(toy):
    assert toy("+experiment=toy/a")[0] == 0
    assert toy("experiment=toy/a", "input=x.png", name="toy_generate")[0] == 0  # `+` is optional
    train, generate = toy.seen
    assert (train.steps, train.trainer.max_steps, "scale" in train) == (3, 5, False)
    assert (generate.scale, "trainer" in generate, "data" in generate, "steps" in generate) == (
        1.5,
        False,
        False,
        False,
    )


def test_user_errors_end_with_2_bugs_with_1_and_a_traceback_interrupts_with_130(toy):
    toy.raises = BadImage("x.png: no image\nat all")
    assert toy() == (2, "error: x.png: no image at all\n")
    code, stderr = toy("--debug")
    assert code == 2 and "Traceback" in stderr and stderr.endswith("error: x.png: no image at all\n")
    toy.raises = RuntimeError("a bug")
    code, stderr = toy()
    assert code == 1 and "Traceback" in stderr and "hydra/_internal" not in stderr
    toy.raises = KeyboardInterrupt()
    assert toy() == (130, "interrupted\n")


def test_a_dry_run_checks_and_makes_nothing(toy):
    assert toy("--dry-run") == (0, "settings are good\n")
    assert toy("--dry-run", "lr_ratee=1")[0] == 2
    assert not toy.seen and not Path("outputs").exists()


RECORD = ("config.yaml", "overrides.yaml", "provenance.json")


def test_a_refused_start_leaves_the_earlier_record_and_its_own_beside_it(toy):
    folder = Path("run")
    toy("out=run", "steps=3")
    before = {name: (folder / name).read_bytes() for name in RECORD}
    toy.raises = BadImage("the folder holds other things")
    assert toy("out=run", "steps=4")[0] == 2
    assert {name: (folder / name).read_bytes() for name in RECORD} == before
    failed = yaml.safe_load((folder / "config.failed.yaml").read_text())
    assert failed["steps"] == 4 and len(list(folder.glob("*.failed.*"))) == len(RECORD)
    toy.raises = None
    toy("out=run", "steps=5")
    assert yaml.safe_load((folder / "config.yaml").read_text())["steps"] == 5
    assert not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_start_that_made_nothing_leaves_the_earlier_record_as_it_was(toy):
    def finished(cfg: DictConfig) -> None:
        """A program that finds its work done."""
        keep_earlier_record()

    again = app(config_name="toy", conf=toy.conf)(finished)
    again(["out=run", "steps=2"])
    assert yaml.safe_load(Path("run/config.yaml").read_text())["steps"] == 2  # there was none before
    toy("out=run", "steps=3")
    before = {name: (Path("run") / name).read_bytes() for name in RECORD}
    again(["out=run", "steps=4"])
    assert {name: (Path("run") / name).read_bytes() for name in RECORD} == before
    assert not list(Path("run").glob("*.failed.*")) and not list(Path("run").glob(".*"))


def test_a_first_start_that_is_refused_keeps_its_record(toy):
    toy.raises = BadImage("nothing there")
    toy("out=run", "steps=4")
    assert yaml.safe_load(Path("run/config.yaml").read_text())["steps"] == 4
    assert not list(Path("run").glob("*.failed.*"))


def test_a_record_that_cannot_be_written_does_not_cost_the_earlier_one(toy, monkeypatch):
    toy("out=run", "steps=3")
    write_text = Path.write_text

    def full(path: Path, *arguments, **options) -> int:
        if path.name == "overrides.yaml":
            raise OSError(28, "No space left on device", str(path))
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    code, said = toy("out=run", "steps=4")
    assert code == 2 and "No space left" in said and said.count("\n") == 1
    assert yaml.safe_load(Path("run/config.yaml").read_text())["steps"] == 3
    assert "steps=3" in Path("run/overrides.yaml").read_text()


@pytest.mark.parametrize("failing", ["mkdir", "write_text"])
def test_a_run_folder_that_cannot_be_written_is_told_in_one_line(toy, monkeypatch, failing):
    (toy.conf.parent / "file").write_text("")
    if failing == "write_text":

        def read_only(path: Path, *arguments, **options) -> None:
            raise OSError(30, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "write_text", read_only)
    code, said = toy("out=file/run" if failing == "mkdir" else "out=run")
    assert code == 2
    assert said.startswith("error: cannot write the run folder: ")
    assert said.count("\n") == 1


def test_a_run_folder_that_exists_and_takes_no_files_is_told_in_one_line(toy):
    Path("run/toy.log").mkdir(parents=True)  # where logging opens its file
    code, said = toy("out=run")
    assert code == 2 and not toy.seen
    assert said.startswith("error: cannot write the run folder: ") and said.count("\n") == 1
