"""How a program starts: Hydra, with one line and an exit code for what the user got wrong.

    @app(config_name="syncdreamer", reads=("model", "data", "trainer"))
    def main(cfg: DictConfig) -> float:
        from core.training.run import run      # heavy modules load here, once the settings are known to be good
        return run(cfg)

    if __name__ == "__main__":
        main()

`cfg` arrives resolved and holds only what the program reads: the keys that its top file in `conf/` states, and the
groups in `reads`. An overlay may hold sections for several programs; what this one does not read is dropped. What the
user typed is never ignored: a key that no program or only another program reads is refused. Values that need more than
their default's kind to be judged are refused by the program's `check`, under --dry-run too, and before torch loads.

Exit codes: 0 done, 1 a bug (with its traceback), 2 the user's fault (`error: <line>`), 130 interrupted, 141 nobody
reads the output any more, 143 terminated.
"""

import functools
import json
import os
import select
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra import main as hydra_main
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from core.command_line import parse_flags, prepare
from core.complaints import as_user_error
from core.compose import searchpath
from core.config import CONF, check_targets
from core.errors import BadOutput, UserError
from core.help import help_text
from core.program import Program
from core.settings import precheck, settings

FLAGS = ("--debug", "--dry-run", "--version")


class _Carried(BaseException):
    """An exception on its way through Hydra, which would otherwise print a line of its own about it."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def app(
    *,
    config_name: str,
    reads: Sequence[str] | None = None,
    check: Callable[[dict[str, Any]], None] | None = None,
    conf: Path = CONF,
) -> Callable[[Callable[[DictConfig], Any]], Any]:
    """Turn `main(cfg)` into a program.

    Args:
        config_name: Its top file in `conf/`, without `.yaml`.
        reads: The groups it reads; by default those for which the top file chooses an option.
        check: Raises a BadConfig for settings that `main` would refuse. It gets what `main` reads, as plain dicts and
            lists, and refuses what it can before it imports anything heavy. What it asks about holds wherever the
            program runs: a sweep's settings are checked here, its jobs may run on other machines.
        conf: The folder of the configs.

    Returns:
        A decorator; the program takes an optional list of arguments (default: the command line) and ends by
        SystemExit unless all went well. `program.main` is the undecorated function.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[..., None]:
        doc = (main.__doc__ or sys.modules[main.__module__].__doc__ or config_name).strip().split("\n\n")[0]
        groups = tuple(reads) if reads is not None else None
        program = Program(config_name, groups, " ".join(doc.split()), conf, check)

        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> None:
            code = start(program, main, sys.argv[1:] if argv is None else list(argv))
            if code:
                raise SystemExit(code)

        run.main = main  # type: ignore[attr-defined]
        run.program = program  # type: ignore[attr-defined]
        return run

    return decorate


def start(program: Program, main: Callable[[DictConfig], Any], argv: Sequence[str]) -> int:
    """Run `main` with settings made from `argv`; the exit code."""
    debug = "--debug" in argv
    try:
        with _sigterm_unwinds():
            _start(program, main, argv)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (Exception, _Carried) as raised:
        error = raised.cause if isinstance(raised, _Carried) else raised
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 141  # as a shell reports a program that SIGPIPE ended
        fault = as_user_error(error, program, argv)
        if debug or fault is None:
            traceback.print_exception(error)
        if fault is not None:
            print(f"error: {fault}", file=sys.stderr)
        return 1 if fault is None else 2


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Within it, SIGTERM ends the program by SystemExit(143), through every `finally`: nothing temporary stays."""
    program = os.getpid()

    def stop(signum: int, frame: object) -> None:
        if os.getpid() != program:  # a forked worker: it dies as it would have died before
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        signal.signal(signum, signal.SIG_IGN)  # a second one would end the tidying-up; SIGKILL still does
        raise SystemExit(128 + signum)

    is_main = threading.current_thread() is threading.main_thread()  # no other may install handlers
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader left, as `head` does; what is still to be written is dropped."""
    poll = select.poll()
    poll.register(1, 0)
    left = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return left


def run_folder() -> Path:
    """Where this run's results go."""
    return Path(HydraConfig.get().runtime.output_dir)


def _start(program: Program, main: Callable[[DictConfig], Any], argv: Sequence[str]) -> None:
    # Before torch is loaded: its idle threads then sleep instead of spinning. Alone that costs nothing, and beside
    # another busy program sampling took a seventh of the CPU time (benchmarks/README.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would otherwise print, and we format it
    if "--version" in argv:
        from core.provenance import code_version

        print(json.dumps(code_version()))
        return
    dry_run = "--dry-run" in argv
    arguments = prepare([argument for argument in argv if argument not in FLAGS], program)
    flags, sweeps = parse_flags(arguments), False
    if flags.help:
        print(help_text(program, flags.overrides))
        return
    if not (flags.hydra_help or flags.info or flags.shell_completion):
        cfg, sweeps = precheck(program, flags)
        if not flags.cfg:
            check_targets(cfg)
        if dry_run:
            print("settings are good" + (" (of the sweep's first job)" if sweeps else ""), file=sys.stderr)
            return

    # argparse takes settings in one block only, and `--info` without a value would take the setting after it for one.
    typed_flags = [argument for argument in arguments if argument not in flags.overrides]
    arguments = [*flags.overrides, *searchpath(flags.overrides), *typed_flags]

    @functools.wraps(main)
    def job(cfg: DictConfig) -> Any:
        alone = HydraConfig.get().mode == RunMode.RUN
        try:
            read = settings(program, cfg)
            check_targets(read)
            folder = run_folder()
            read.out = str(folder)
            with recorded(folder, read):
                return main(read)
        except Exception as error:
            if alone:
                raise _Carried(error) from error
            raise  # a sweep's other jobs go on, and Hydra reports which one failed

    # The program's own errors come out of a single run as _Carried, so an OSError there is Hydra's, about the folder.
    with _command_line(arguments), nullcontext() if sweeps else _os_errors_about_the_run_folder():
        hydra_main(version_base="1.3", config_path=str(program.conf), config_name=program.config_name)(job)()


@contextmanager
def _os_errors_about_the_run_folder() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # not a folder's, but of what --cfg and the like print
    except (OSError, ValueError) as raised:
        # logging wraps what opening its file raised
        error = raised if isinstance(raised, OSError) else raised.__cause__
        if not isinstance(error, OSError):
            raise
        reason = f"{error.strerror} ({error.filename})" if error.filename else str(error)
        raise BadOutput(f"cannot write the run folder: {reason}; choose another out=") from raised


@contextmanager
def recorded(folder: Path, cfg: DictConfig) -> Iterator[None]:
    """Leaves the resolved settings, what the user typed and where the run comes from in the run folder.

    They replace an earlier run's, unless the block ends with a UserError: what was refused (another recipe, a folder
    in use) made nothing here, so the earlier record gets its names back and this one becomes `config.failed.yaml`.
    It also gets them back where the run says that it made nothing (`keep_earlier_record`).
    """
    from core.provenance import listening_for_keep, provenance

    record = provenance(OmegaConf.to_container(cfg), seed=cfg.seed)  # type: ignore[arg-type]
    texts = {
        folder / "config.yaml": OmegaConf.to_yaml(cfg),
        folder / "overrides.yaml": OmegaConf.to_yaml(HydraConfig.get().overrides.task),
        folder / "provenance.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }
    token = uuid.uuid4().hex[:12]
    earlier = {path: path.with_name(f".{path.name}-{token}") for path in texts}
    try:
        with _os_errors_about_the_run_folder():
            for path, text in texts.items():
                with suppress(FileNotFoundError):  # renamed, not read: a full disk cannot lose it
                    path.rename(earlier[path])
                path.write_text(text, encoding="utf-8")
        with listening_for_keep() as kept:
            yield
        if kept:
            for path, aside in earlier.items():
                with suppress(FileNotFoundError):
                    aside.replace(path)
    except UserError:
        with suppress(OSError):
            for path, aside in earlier.items():
                if aside.is_file():
                    if path.is_file():
                        path.replace(path.with_name(f"{path.stem}.failed{path.suffix}"))
                    aside.replace(path)
        raise
    finally:
        for aside in earlier.values():
            aside.unlink(missing_ok=True)


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads its arguments from `sys.argv`."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
