"""Imports point down: projects, data_tools, benchmarks and launch use core; core uses none of them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("core", "projects", "data_tools", "benchmarks", "launch")
ACCELERATORS = ("xformers", "tinycudann", "nvdiffrast", "gsplat")
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """The dotted names that a module imports, relative ones made absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    nodes = _outside_functions(tree) if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def breach(module: str, imported: str) -> str | None:
    """Why `module` may not import that, or None."""
    layer, target = module.split(".")[0], imported.split(".")[0]
    if target not in LAYERS:
        return None
    if layer == "core":
        if target != "core":
            return "core knows nothing above it"
        if inside(imported, "core.checkpoints") and not inside(module, "core.checkpoints"):
            return "nothing in core uses core.checkpoints"
    if layer == "projects" and target != "core":
        own = ".".join(module.split(".")[:2])
        if not inside(imported, own):
            return "a project uses core and itself"
    if layer not in ("core", "projects") and target not in ("core", layer):
        return f"{layer} uses core, and starts programs by their module names"
    return None


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_what_its_layer_may(path):
    module = module_name(path)
    broken = {name: why for name in imports(path) if (why := breach(module, name))}
    assert not broken


@pytest.mark.parametrize("accelerator", ACCELERATORS)
def test_an_accelerator_is_imported_by_one_module_and_only_when_called(accelerator):
    users = [path for path in MODULES if any(inside(name, accelerator) for name in imports(path))]
    eager = [path for path in users if any(inside(n, accelerator) for n in imports(path, top_level_only=True))]
    assert len(users) <= 1, users
    assert not eager, eager


@pytest.mark.slow
def test_every_module_of_core_imports_without_the_accelerators():
    names = [module_name(path) for path in MODULES if module_name(path).startswith("core")]
    code = f"""
import importlib, sys
for name in {ACCELERATORS!r}:
    sys.modules[name] = None  # importing it raises ImportError, as where it is not installed
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("core.views", "core.types.Cameras", True),
        ("core.views", "projects.toybox", False),
        ("core.training.run", "core.checkpoints.load", False),
        ("core.checkpoints.ldm", "core.checkpoints.rename", True),
        ("projects.syncdreamer.train", "core.checkpoints.load", True),
        ("projects.syncdreamer.train", "projects.syncdreamer.model", True),
        ("projects.syncdreamer.train", "projects.benchmark.evaluate", False),
        ("projects.syncdreamer.train", "data_tools.toybox", False),
        ("projects.benchmark.evaluate", "projects.toybox.data", False),
        ("data_tools.toybox.make", "core.render", True),
        ("data_tools.toybox.make", "projects.toybox", False),
        ("launch.doctor", "data_tools", False),
        ("core.views", "numpy", True),
    ],
)
def test_the_rules_themselves(module, imported, allowed):
    assert (breach(module, imported) is None) is allowed
