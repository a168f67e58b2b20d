"""A program of two config files, for the tests of `core.app`: run in this process, or in one of its own."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from core.app import app
from core.config import CONF

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
