"""What is installed, what is used instead of what is not, and why: `python -m launch.doctor`.

Packages are found by their metadata; only torch is imported, to ask it for a GPU, and with a GPU the accelerators, each
in a process of its own. Nothing that is missing or broken makes this program fail.
"""

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent

# Optional packages: distribution, module, what it is for, what is used without it.
ACCELERATORS = (
    (
        "xformers",
        "xformers",
        "self-attention of UNets on a GPU (model.denoiser.attention=xformers)",
        "torch's scaled_dot_product_attention",
    ),
    ("tinycudann", "tinycudann", "hash grid and small MLPs on a GPU", "the plain-torch hash grid, same parameters"),
    (
        "nvdiffrast",
        "nvdiffrast",
        "data_tools.render engine=nvdiffrast on a GPU (non-commercial licence)",
        "the torch rasteriser, engine=cpu",
    ),
    ("gsplat", "gsplat", "Gaussian rasteriser on a GPU", "nothing needs it yet: the Gaussian systems are not here"),
)
OPTIONAL = (
    ("rembg", "rembg", "mask=auto by a segmentation network", "a fill from the image's border, which says so"),
    ("bpy", "bpy", "data_tools.render engine=blender, as the papers rendered", "the torch rasteriser, engine=cpu"),
    ("pycolmap", "pycolmap", "structure from motion for evaluation (not used yet)", "metrics that need no matching"),
    ("wandb", "wandb", "logging to a server (logger.wandb=online)", "TensorBoard and metrics.csv, always written"),
)
PROGRAMS = (
    ("ffmpeg", "videos", "the binary inside imageio-ffmpeg"),
    ("blender", "data_tools.render engine=blender", "the bpy package, where installed"),
    ("colmap", "structure from motion for evaluation (not used yet)", "pycolmap, where installed"),
    ("chromium", "pictures of the reports' viewer in tests", "those tests are skipped"),
    ("sbatch", "clusters (hydra/launcher=slurm)", "hydra/launcher=local: the same jobs as local processes"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    name: str
    found: str  # a version, or empty
    usable: bool
    note: str
    required: bool = False


def main() -> int:
    """Print the tables; 0 whatever they hold."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}", highlight=False)
    gpu = check(find_gpu, "CUDA")
    _show(console, "Required", [check(lambda name=name: find_required(name), name) for name in required()])
    accelerators = [check(lambda e=e: find_package(*e, has_gpu=gpu.usable), e[0]) for e in ACCELERATORS]
    _show(console, "Accelerators (used only when chosen by name)", [gpu, *accelerators])
    packages = [check(lambda e=e: find_package(*e), e[0]) for e in OPTIONAL]
    programs = [check(lambda e=e: find_program(*e), e[0]) for e in PROGRAMS]
    _show(console, "Optional", [*packages, *programs])
    _show(console, "Weights in weights/", weights())
    return 0


def check(find: Callable[[], Finding], name: str) -> Finding:
    """What `find` says, or that looking itself failed."""
    try:
        return find()
    except Exception as error:  # a broken installation can raise anything
        return Finding(name, "", False, f"broken: {type(error).__name__}: {' '.join(str(error).split())[:120]}")


def required() -> list[str]:
    """The distributions that pyproject.toml requires, by the installed metadata or by reading the file."""
    try:
        lines = [line for line in requires("turntable") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = project["dependencies"]
    return sorted(_name_of(line) for line in lines)


def pins() -> dict[str, str]:
    """constraints.txt as name -> version."""
    path = ROOT / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("==") for line in lines if "==" in line and not line.startswith("#"))
    return {_name_of(name): number.strip() for name, _, number in pairs}


def find_required(name: str) -> Finding:
    """A package that must be there, beside its pinned version."""
    pinned = pins().get(name)
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "", False, "missing: run `make setup`", required=True)
    same = pinned is None or found.partition("+")[0] == pinned
    note = "" if same else f"tested with {pinned}; `make setup` installs that"
    return Finding(name, found, True, note, required=True)


def find_gpu() -> Finding:
    """A CUDA device that torch can use."""
    import torch

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("CUDA", str(torch.version.cuda), True, f"{torch.cuda.device_count()} x {name}, {memory:.0f} GiB")
    built = torch.version.cuda
    why = f"torch is built for CUDA {built}, but finds no device or driver" if built else "torch is a CPU build"
    return Finding("CUDA", built or "", False, f"{why}; the CPU ({torch.get_num_threads()} threads) is used")


def find_package(distribution: str, module: str, purpose: str, instead: str, *, has_gpu: bool | None = None) -> Finding:
    """An optional package, by its metadata; `has_gpu` is given for those that need one."""
    if importlib.util.find_spec(module) is None:
        return Finding(distribution, "", False, f"not installed ({purpose}); instead: {instead}")
    try:
        found = version(distribution)
    except PackageNotFoundError:
        found = "unknown version"
    if has_gpu is False:
        return Finding(distribution, found, False, f"needs a GPU ({purpose}); instead: {instead}")
    if has_gpu:  # compiled against one torch and one driver: only importing tells, and a crash stays in that process
        code = [sys.executable, "-c", f"import {module}"]
        done = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:120]
            return Finding(distribution, found, False, f"cannot be imported: {why}; instead: {instead}")
    return Finding(distribution, found, True, purpose)


def find_program(name: str, purpose: str, instead: str) -> Finding:
    """A program on PATH; ffmpeg may also come inside a wheel."""
    path = shutil.which(name)
    if path is None and name == "ffmpeg":
        from imageio_ffmpeg import get_ffmpeg_exe, get_ffmpeg_version

        get_ffmpeg_exe()
        return Finding(name, get_ffmpeg_version(), True, f"{purpose}, by {instead}")
    if path is None:
        return Finding(name, "", False, f"not on PATH ({purpose}); instead: {instead}")
    flag = "-version" if name == "ffmpeg" else "--version"
    done = subprocess.run([path, flag], capture_output=True, text=True, timeout=20, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return Finding(name, lines[0][:40] if lines else "found", True, purpose)


def weights() -> list[Finding]:
    """The safetensors files in weights/, with their sizes."""
    files = sorted((ROOT / "weights").rglob("*.safetensors"))
    if not files:
        return [Finding("none", "", False, "`make weights` trains the toybox weights here")]
    names = [file.relative_to(ROOT / "weights").as_posix() for file in files]
    return [
        Finding(name, f"{file.stat().st_size / 2**20:.1f} MiB", True, "")
        for name, file in zip(names, files, strict=True)
    ]


def _name_of(requirement: str) -> str:
    """The normalised distribution name at the start of a requirement line."""
    end = next((i for i, letter in enumerate(requirement) if letter in "<>=!~[; "), len(requirement))
    return requirement[:end].strip().lower().replace("_", "-")


def _show(console: Console, title: str, findings: list[Finding]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in ("", "found", "", "note"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        missing = Text("missing", "bold red") if finding.required else Text("-", "dim")
        state = Text("ok", "green") if finding.usable else missing
        table.add_row(Text(finding.name), Text(finding.found), state, Text(finding.note))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
