"""Programs from the command line: what they read, what they refuse, and how they end."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from omegaconf import DictConfig

from core.app import app
from core.config import CONF
from core.errors import BadConfig, BadImage
from core.provenance import keep_earlier_record
from core.settings import Program, parse, prepare

ROOT = CONF.parent
FILES = {
    "toy.yaml": """
        defaults: [base/app, model: small, data: files, trainer: cpu, _self_]
        name: toy
        lr: 1e-4
        steps: 10
    """,
    "toy_generate.yaml": """
        defaults: [base/app, model: small, data: null, _self_]
        name: toy
        input: ???
        scale: 2.0
    """,
    "model/small.yaml": "{_target_: core.config.AppConfig, name: m, seed: 3, out: o}",
    "model/broken.yaml": "{_target_: core.config.AppConfig, name: m, sede: 3}",
    "data/files.yaml": "{_target_: core.errors.UserError, message: files}",
    "trainer/cpu.yaml": "{max_steps: 3}",
    "experiment/toy/a.yaml": """
        # @package _global_
        defaults: [override /data: files]
        scale: 1.5
        steps: 3
        trainer: {max_steps: 5}
    """,
    "experiment/toy/stray.yaml": "# @package _global_\nstray: 1\n",
    "experiment/toy/hostile.yaml": "# @package _global_\nmodel: {_target_: os.system, command: touch sentinel}\n",
    "experiment/toy/hostile_hydra.yaml": (
        "# @package _global_\nhydra: {callbacks: {x: {_target_: os.system, command: touch sentinel}}}\n"
    ),
}


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


class Toy:
    """The programs `toy` and `toy_generate`, run in this process."""

    def __init__(self, conf: Path, capsys) -> None:
        self.conf, self.capsys, self.seen = conf, capsys, []
        self.raises: BaseException | None = None
        self.check = None

    def __call__(self, *argv: str, name: str = "toy") -> tuple[int, str]:
        def main(cfg: DictConfig) -> float:
            """A toy."""
            self.seen.append(cfg)
            if self.raises is not None:
                raise self.raises
            return 1.0

        try:
            app(config_name=name, check=self.check, conf=self.conf)(main)(list(argv))
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, self.capsys.readouterr().err


@pytest.fixture
def toy(conf, capsys) -> Toy:
    return Toy(conf, capsys)


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


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lr_ratee=1", "unknown key 'lr_ratee'; the nearest known key is 'lr'"),
        ("+lr_ratee=1", "unknown key 'lr_ratee'; the nearest known key is 'lr'"),
        ("model.sede=1", "unknown key 'model.sede'; the nearest known key is 'model.seed'"),
        ("+model.sede=1", "unknown key 'model.sede' for core.config.AppConfig; the nearest known key is 'seed'"),
        ("model=broken", "unknown key 'model.sede' for core.config.AppConfig"),
        ("scale=3.0", "does not read 'scale'"),
        ("seed=abc", "seed=abc: expected a whole number"),
        ("steps=ten", "steps=ten: expected a whole number (default 10)"),
        ("trainer.max_steps=x", "expected a whole number"),
        ("lr=fast", "lr=fast: expected a number"),
        ("model=big", "model=big: no such option; choose one of broken, small"),
        ("+experiment=toy/b", "experiment=toy/b: no such option; choose one of toy/a"),
        ("+experiment=toy/stray", "unknown top-level key 'stray'"),
        ("+experiment=toy/hostile", "os.system: not an allowed target"),
        ("+experiment=toy/hostile_hydra", "os.system: not an allowed target"),
        ("model.name=???", "missing: model.name"),
        ("model.name=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("lr=${lr}", "lr: "),
        ("photo.png", "settings are written key=value"),
        ("name=a (b", "wants quotes"),
        ("--frob", "unrecognized arguments: --frob"),
        ("hydra/launcher=nowhere", "hydra/launcher=nowhere: no such option; choose one of basic, local, slurm"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_leaves_nothing(toy, argument, message):
    code, stderr = toy(argument)
    assert code == 2 and not toy.seen
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and message in stderr, stderr
    assert not Path("outputs").exists() and not Path("sentinel").exists()


NULL = """
    count: 10
    text: some
    section: {count: 3, text: some}
    library: {_target_: torch.optim.AdamW, _partial_: true, weight_decay: 0.01, foreach: null}
"""


@pytest.mark.parametrize(
    "key", ["count", "text", "section", "section.count", "section.text", "library.weight_decay", "input", "model.seed"]
)
def test_null_is_refused_where_the_default_is_a_value(toy, key):
    add(toy, NULL)
    code, stderr = toy("--dry-run", *(["input=x"] if key != "input" else []), f"{key}=null", name="toy_generate")
    assert code == 2 and f"{key}=" in stderr and "expected" in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize("key", ["library.foreach", "image.max_size", "optional"])
def test_null_is_accepted_where_the_default_is_null_or_it_switches_something_off(toy, key):
    add(toy, NULL + "    image: {max_size: 64}\n    optional: null\n")
    assert toy("--dry-run", "input=x", f"{key}=null", name="toy_generate") == (0, "settings are good\n")


def add(toy: Toy, settings: str) -> None:
    """More settings in the top file of toy_generate."""
    path = toy.conf / "toy_generate.yaml"
    path.write_text(path.read_text() + dedent(settings))


def test_null_for_a_group_is_answered_with_its_options(toy):
    assert toy("trainer=null") == (2, "error: trainer=null: choose one of cpu\n")


def test_a_near_key_of_another_program_is_told_as_that_programs(toy):
    _, stderr = toy("input=x.png", "lr_ratee=1", name="toy_generate")
    assert stderr == "error: unknown key 'lr_ratee'; the nearest is 'lr', which toy reads and toy_generate not\n"
    _, stderr = toy("qqqqqqqq=1")
    assert stderr == "error: unknown key 'qqqqqqqq'; known are data, lr, model, name, out, seed, steps, trainer\n"


@pytest.mark.parametrize("content", ["a: [1\n", "only words\n", "defaults: 3\n", "a: \xff\n"])
def test_a_broken_top_file_stops_its_own_program_only(toy, content):
    (toy.conf / "toy_generate.yaml").write_bytes(content.encode("latin-1"))
    assert toy("--dry-run", "steps=3") == (0, "settings are good\n")
    assert toy("--dry-run", "+experiment=toy/a")[1].startswith("error: unknown top-level key 'scale'")
    assert "nearest known key is 'lr'" in toy("lr_ratee=1")[1]
    code, stderr = toy("input=x", name="toy_generate")
    assert code == 2 and "toy_generate.yaml" in stderr and stderr.count("\n") == 1


def test_keys_of_a_broken_top_file_still_count_as_known(toy):
    path = toy.conf / "toy_generate.yaml"
    path.write_text(path.read_text() + "broken: [1\n")
    assert toy("--dry-run", "+experiment=toy/a") == (0, "settings are good\n")
    assert "toy does not read 'scale'" in toy("scale=3")[1]


def refuse_three_steps(settings: dict) -> None:
    assert isinstance(settings["trainer"], dict) and settings["lr"] == 1e-4
    if settings["steps"] == 3:
        raise BadConfig("steps=3: not three")


@pytest.mark.parametrize("arguments", [["steps=3"], ["steps=3", "--dry-run"], ["-m", "steps=3,4"]])
def test_what_the_programs_own_check_refuses_is_refused_before_anything_is_made(toy, arguments):
    toy.check = refuse_three_steps
    assert toy(*arguments) == (2, "error: steps=3: not three\n")
    assert not toy.seen and not Path("outputs").exists() and not Path("multirun").exists()
    assert toy("steps=4")[0] == 0


@pytest.mark.parametrize("argument", ["data=files", "trainer.max_steps=3", "+data.x=1", "lr=1.0", "steps=1"])
def test_what_only_another_program_reads_is_refused_when_typed(toy, argument):
    code, stderr = toy("input=x.png", argument, name="toy_generate")
    assert code == 2 and "toy_generate does not read" in stderr


def test_a_missing_input_is_asked_for(toy):
    assert toy(name="toy_generate") == (2, "error: missing: input; give input=...\n")


AWKWARD = (
    "a.png",
    "photos/*.png",
    "with space/ü (1).png",
    "a=b.png",
    "a,b.png",
    "[x].png",
    "-lead.png",
    'it\'s "q".png',
)
AWKWARD += (
    "{x}.png",
    "end\\",
    "C:\\new\\x.png",
    "two\nlines.png",
    "~/x.png",
    "日本.png",
    "50%.png",
    "#1.png",
    ": .png",
)


@pytest.mark.parametrize("value", AWKWARD)
def test_any_file_name_is_understood_as_typed(conf, value):
    (override,) = parse(prepare([f"input={value}"], Program("toy_generate", None, "", conf)))
    understood = override.value()
    assert getattr(understood, "text", understood) == value


def test_an_awkward_file_name_arrives_in_the_program(toy):
    value = 'with space/ü (1)=it\'s "q", {x} [y]\\.png'
    code, stderr = toy(f"input={value}", name="toy_generate")
    assert code == 0, stderr
    assert toy.seen[0].input == value


def test_a_list_of_inputs_stays_a_list_and_a_quoted_name_stays_one_name(toy):
    toy("input=[a.png,b.png]", name="toy_generate")
    toy("input='a b.png'", name="toy_generate")
    assert [cfg.input for cfg in toy.seen] == [["a.png", "b.png"], "a b.png"]


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


def test_a_dry_run_checks_and_makes_nothing(toy):
    assert toy("--dry-run") == (0, "settings are good\n")
    assert toy("--dry-run", "lr_ratee=1")[0] == 2
    assert not toy.seen and not Path("outputs").exists()


def test_a_sweep_gives_each_job_its_own_folder(toy):
    code, stderr = toy("-m", "seed=1,2", "out=runs")
    assert code == 0, stderr
    assert [(cfg.seed, Path(cfg.out).name, Path(cfg.out).parent.name) for cfg in toy.seen] == [
        (1, "0", "runs"),
        (2, "1", "runs"),
    ]


def test_a_sweep_overlay_expands_into_jobs(toy):
    assert toy("+sweep=seeds", "out=runs")[0] == 0
    assert [cfg.seed for cfg in toy.seen] == [1, 2, 3]


def test_a_wrong_sweep_is_refused_before_any_job(toy):
    code, stderr = toy("-m", "seed=1,2", "lr_ratee=3")
    assert code == 2 and "lr_ratee" in stderr and not toy.seen


def test_a_cluster_that_is_not_there_is_said_to_be_missing(toy, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, stderr = toy("-m", "seed=1,2", "hydra/launcher=slurm")
    assert code == 2 and "sbatch is not on PATH" in stderr and "hydra/launcher=local" in stderr


PROGRAM = """
from pathlib import Path
from core.app import app

@app(config_name="toy", conf=Path("conf").resolve())
def main(cfg):
    "Does nothing, in little time."
    Path(cfg.out, "seed").write_text(str(cfg.seed))

if __name__ == "__main__":
    main()
"""


def in_a_process(*arguments: str) -> tuple[int, str, str, float]:
    Path("toy.py").write_text(PROGRAM)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "toy", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, done.stdout, done.stderr, seconds


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--help"], 0, "Does nothing, in little time."),
        (["--cfg", "job"], 0, "max_steps: 3"),
        (["lr_ratee=1"], 2, "nearest known key"),
        (["--version"], 0, "commit"),
    ],
)
def test_help_settings_and_refusals_answer_within_three_cpu_seconds(conf, arguments, code, says):
    returned, stdout, stderr, seconds = in_a_process(*arguments)
    assert returned == code and says in stdout + stderr
    assert seconds < 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["steps=3", "--cfg", "job", "--resolve"],
        ["--cfg", "job", "steps=3"],
        ["steps=3", "--cfg", "job", "seed=1", "--package", "_global_"],
        ["steps=3", "--help"],
    ],
)
def test_hydras_flags_may_stand_anywhere(toy, arguments):
    try:
        app(config_name="toy", conf=toy.conf)(print)(arguments)
    except SystemExit as stop:
        pytest.fail(f"exit code {stop.code}: {toy.capsys.readouterr().err}")
    assert "steps: 3" in toy.capsys.readouterr().out


def test_information_may_be_asked_for_after_a_setting(conf):
    code, stdout, stderr, _ = in_a_process("steps=3", "--info")
    assert code == 0 and "steps: 3" in stdout, stderr


def test_help_begins_with_the_programs_own_settings_and_their_comments(toy):
    (toy.conf / "toy_generate.yaml").write_text(
        "defaults: [base/app, model: small, data: null, _self_]\nname: toy\n"
        "input: ???     # an image\nbox:   # of numbers\n  side: 3     # in pixels\n"
    )
    app(config_name="toy_generate", conf=toy.conf)(print)(["--help", "box.side=4"])
    said = toy.capsys.readouterr().out
    lines = ["input: ???                 # an image", "box:                       # of numbers",
             "  side: 4                  # in pixels", "model:", "model: broken, small"]  # fmt: skip
    assert [line for line in said.splitlines() if line in lines] == lines
    assert "# the run folder" in said and "trainer" not in said


def test_help_needs_no_choice_of_a_group(toy):
    path = toy.conf / "toy.yaml"
    path.write_text(path.read_text().replace("model: small", "model: '???'"))
    app(config_name="toy", conf=toy.conf)(print)(["--help"])
    assert "model: broken, small" in toy.capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_a_reader_who_leaves_ends_the_program_quietly(conf, arguments):
    (conf / "toy.yaml").write_text((conf / "toy.yaml").read_text() + f"long: {'x' * 100_000}\n")
    Path("toy.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "toy", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_sweep_runs_through_the_launch_path_of_a_cluster(conf):
    code, _, stderr, _ = in_a_process("-m", "seed=1,2", "hydra/launcher=submitit_local", "out=runs")
    assert code == 0, stderr
    assert [Path(f"runs/{job}/seed").read_text() for job in (0, 1)] == ["1", "2"]


def test_a_group_without_a_choice_is_asked_for_with_its_options(toy):
    path = toy.conf / "toy.yaml"
    path.write_text(path.read_text().replace("model: small", "model: '???'"))
    code, stderr = toy()
    assert code == 2 and "You must specify 'model'" in stderr and "choose one of broken, small" in stderr


def test_a_config_file_that_is_no_yaml_is_named(toy):
    (toy.conf / "trainer" / "cpu.yaml").write_text("max_steps: [3\n")
    code, stderr = toy()
    assert code == 2 and stderr.count("\n") == 1 and "cpu.yaml" in stderr and "line" in stderr


def test_the_sweep_flag_may_stand_between_settings(toy):
    assert toy("seed=1,2", "-m", "steps=4", "out=runs")[0] == 0
    assert [(cfg.seed, cfg.steps) for cfg in toy.seen] == [(1, 4), (2, 4)]
