"""Settings from the command line: what a program refuses, in one line and before anything is made."""

from pathlib import Path
from textwrap import dedent

import pytest

from core.command_line import parse, prepare
from core.errors import BadConfig
from core.program import Program
from tests.app.toy_program import Toy


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


ARGUMENTS = "    limit: {_target_: core.config.number, key: some, value: 3, least: 0.5}\n"


def test_an_argument_of_ours_may_be_of_any_kind_that_its_annotation_allows(toy):
    add(toy, "\n" + ARGUMENTS)
    assert toy("--dry-run", "input=x", "limit.value=[1,2]", name="toy_generate") == (0, "settings are good\n")
    code, stderr = toy("--dry-run", "input=x", "limit.least=[1,2]", name="toy_generate")
    assert code == 2 and stderr == "error: limit.least=[1,2]: expected a number (default 0.5)\n"


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


def test_a_group_without_a_choice_is_asked_for_with_its_options(toy):
    path = toy.conf / "toy.yaml"
    path.write_text(path.read_text().replace("model: small", "model: '???'"))
    code, stderr = toy()
    assert code == 2 and "You must specify 'model'" in stderr and "choose one of broken, small" in stderr


def test_a_config_file_that_is_no_yaml_is_named(toy):
    (toy.conf / "trainer" / "cpu.yaml").write_text("max_steps: [3\n")
    code, stderr = toy()
    assert code == 2 and stderr.count("\n") == 1 and "cpu.yaml" in stderr and "line" in stderr


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
