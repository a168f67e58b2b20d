"""What holds for the files of the repository: listed commands, configs that compose, no traces of a machine."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.command_line import parse_flags, prepare
from core.compose import composed
from core.config import CONF, check_targets
from core.program import Program, top_level
from core.settings import precheck, settings

ROOT = CONF.parent
# In pieces, so that this file does not contain what it forbids.
MACHINE = "|".join(("/wo" + "rk/", "/tmp/ba" + "sh_jobs", "/ro" + "ot/", "/opt/py" + "pi", r"/home/\w+/"))
HOSTS = "|".join(
    name.replace("_", r"\.")
    for name in ("py" + "pi_org", "python" + "hosted_org", "npm" + "js_org", "anaconda" + "_org")
)
FORBIDDEN = re.compile(rf"(?<![\w.])(?:{MACHINE})|{HOSTS}|download\.py" + r"torch\.org")


def tracked_files() -> list[Path]:
    """Files that are, or would be, committed; none outside a checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).is_file()]


def programs() -> dict[str, tuple[Program, str]]:
    """Every program of the repository as its `@app(...)` line declares it, and the folder it stands in."""
    found = {}
    for folder in ("projects", "data_tools", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "app":
                    words = {word.arg: word.value for word in node.keywords}
                    given = {key: ast.literal_eval(words[key]) for key in ("config_name", "reads") if key in words}
                    reads = given.get("reads")
                    program = Program(given["config_name"], tuple(reads) if reads is not None else None, "")
                    found[program.config_name] = program, path.parent.name
    return found


FOUND = programs()
PROGRAMS = [program for program, _ in FOUND.values()]
OVERLAYS = sorted(p.relative_to(CONF / "experiment").with_suffix("") for p in CONF.glob("experiment/**/*.yaml"))
# conf/experiment/<system>/ serves every program in projects/<system>/ that has a model; .../benchmark/ serves evaluate.
PAIRS = [
    (program, overlay.as_posix())
    for program, folder in FOUND.values()
    for overlay in OVERLAYS
    if folder == overlay.parts[0]
    and ("protocol" if folder == "benchmark" else "model") in top_level(CONF / f"{program.config_name}.yaml")[1]
]


def check(program: Program, overrides: list[str]) -> None:
    cfg = composed(program, overrides)
    for key in OmegaConf.missing_keys(OmegaConf.masked_copy(cfg, list(program.keys & {str(k) for k in cfg}))):
        OmegaConf.update(cfg, key, "given-by-the-user")
    check_targets(settings(program, cfg))


COMPLETE = [program for program in PROGRAMS if "???" not in top_level(CONF / f"{program.config_name}.yaml")[1].values()]


@pytest.mark.parametrize("program", COMPLETE, ids=lambda program: program.config_name)
def test_a_programs_settings_compose_and_fit_their_signatures(program):
    check(program, [])


@pytest.mark.parametrize(("program", "overlay"), PAIRS, ids=lambda value: getattr(value, "config_name", value))
def test_an_overlay_composes_and_fits_the_signatures(program, overlay):
    check(program, [f"+experiment={overlay}"])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=str)
def test_an_overlay_belongs_to_a_program_and_is_global(overlay):
    first = (CONF / "experiment" / f"{overlay}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# @package _global_", "Hydra reads this only from the first line"
    assert any(name == overlay.as_posix() for _, name in PAIRS), "no program stands in that folder"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_top_file_is_some_programs(path):
    assert path.stem in {program.config_name for program in PROGRAMS}
    assert "name" in top_level(path)[0], "defaults begin with base/app"


def test_no_file_names_a_machine_or_a_registry():
    files = tracked_files()
    if not files:
        pytest.skip("not a git checkout")
    traces = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures and tensors
        for number, line in enumerate(text.splitlines(), start=1):
            if match := FORBIDDEN.search(line):
                traces.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert not traces


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets == set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE))
    assert targets <= set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())


def test_the_readme_names_only_make_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        used = re.findall(r"`make ((?:[a-z-]+ ?)+)`", (ROOT / document).read_text(encoding="utf-8"))
        assert {target for line in used for target in line.split()} <= targets


def test_every_python_file_but_tests_says_what_it_is():
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in tracked_files()
        if path.suffix == ".py" and path.name != "__init__.py" and "tests" not in path.relative_to(ROOT).parts
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def readme_commands() -> list[str]:
    """Every `python -m ...` line in the READMEs' code blocks, without its comment."""
    lines = []
    for path in sorted(ROOT.glob("**/README.md")):
        if ".venv" in path.parts or "outputs" in path.parts:
            continue
        for block in re.findall(r"```(?:bash|sh)?\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            lines += [line.strip() for line in block.splitlines() if line.strip().startswith("python -m ")]
        lines += re.findall(r"`(python -m [^`]+)`", path.read_text(encoding="utf-8"))
    return sorted({re.split(r"\s+#", line)[0] for line in lines})


@pytest.mark.parametrize("line", readme_commands())
def test_every_command_of_a_readme_is_one_that_the_program_accepts(line: str):
    _, _, module, *arguments = shlex.split(line)
    found = importlib.import_module(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module)
    program = getattr(found.main, "program", None)
    if program is None:  # no settings, as launch.doctor
        assert not arguments or module.startswith("benchmarks.")
        return
    precheck(program, parse_flags(prepare(arguments, program)))


@pytest.mark.parametrize(
    "line",
    [
        "projects.syncdreamer.train trainer.accelerator=cudaa",
        "projects.syncdreamer.train logger.wandb=onlinee",
        "projects.syncdreamer.train schedule.steps=-5",
        "projects.toybox.train trainer.precision=8",
        "projects.syncdreamer.predict sample_steps=2000",
        "projects.syncdreamer.predict precision=8",
        "projects.syncdreamer.predict device=gpu",
        "projects.benchmark.reconstruct mesh.resolution=1",
    ],
)
def test_a_value_that_a_program_would_refuse_is_refused_before_torch_loads(line: str):
    module, setting = line.split()
    overlay = {"syncdreamer": ["+experiment=syncdreamer/toybox"], "toybox": ["+experiment=toybox/vae"]}
    given = [*overlay.get(module.split(".")[1], ["views=x"]), setting, "--dry-run"]
    code = f"""
import sys
import {module} as program
try:
    program.main({given!r})
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and f"error: {setting}" in done.stderr, done.stderr
