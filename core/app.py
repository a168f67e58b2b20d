"""How a program starts: Hydra, with one line and an exit code for what the user got wrong.

    @app(config_name="syncdreamer", reads=("model", "data", "trainer"))
    def main(cfg: DictConfig) -> float:
        from core.training.run import run      # heavy modules load here, once the settings are known to be good
        return run(cfg)

    if __name__ == "__main__":
        main()

`cfg` arrives resolved and holds only what the program reads: the keys that its top file in `conf/` states, and the groups
in `reads`. An overlay may hold sections for several programs; what this one does not read is dropped. What the user typed
is never ignored: a key that no program or only another program reads is refused.

Exit codes: 0 done, 1 a bug (with its traceback), 2 the user's fault (`error: <line>`), 130 interrupted.
"""

import functools
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra import main as hydra_main
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from core import config
from core.config import CONF, AppConfig, check_allowed, check_targets, describe, fits, like_default, suggestion
from core.errors import BadConfig, UserError

FLAGS = ("--debug", "--dry-run", "--version")
OVERLAYS = ("experiment", "sweep")  # groups of whole experiments, not sections of the settings
# Values of these keys are paths or sentences: they may hold spaces, commas, `=`, brackets and any letter, unquoted.
TEXT_KEYS = frozenset(
    "input views pred target reference mask out root data_root checkpoint weights prompt caption output mesh".split()
)


@dataclass(frozen=True)
class Program:
    """A program as `app` declares it."""

    config_name: str
    reads: tuple[str, ...] | None
    doc: str
    conf: Path = CONF

    @property
    def keys(self) -> set[str]:
        """The top-level keys that it reads."""
        stated, groups = top_level(self.conf / f"{self.config_name}.yaml")
        return stated | set(self.reads if self.reads is not None else (g for g, choice in groups.items() if choice))


class _Carried(BaseException):
    """An exception on its way through Hydra, which would otherwise print a line of its own about it."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def app(
    *, config_name: str, reads: Sequence[str] | None = None, conf: Path = CONF
) -> Callable[[Callable[[DictConfig], Any]], Any]:
    """Turn `main(cfg)` into a program.

    Args:
        config_name: Its top file in `conf/`, without `.yaml`.
        reads: The groups it reads; by default those for which the top file chooses an option.
        conf: The folder of the configs.

    Returns:
        A decorator; the program takes an optional list of arguments (default: the command line) and ends by
        SystemExit unless all went well. `program.main` is the undecorated function.
    """

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[..., None]:
        doc = (main.__doc__ or sys.modules[main.__module__].__doc__ or config_name).strip().split("\n\n")[0]
        program = Program(config_name, tuple(reads) if reads is not None else None, " ".join(doc.split()), conf)

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
        _start(program, main, argv)
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (Exception, _Carried) as raised:
        error = raised.cause if isinstance(raised, _Carried) else raised
        fault = as_user_error(error, program, argv)
        if debug or fault is None:
            traceback.print_exception(error)
        if fault is not None:
            print(f"error: {fault}", file=sys.stderr)
        return 1 if fault is None else 2


def run_folder() -> Path:
    """Where this run's results go."""
    return Path(HydraConfig.get().runtime.output_dir)


def _start(program: Program, main: Callable[[DictConfig], Any], argv: Sequence[str]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises what it would otherwise print, and we format it
    if "--version" in argv:
        from core.provenance import code_version

        print(json.dumps(code_version()))
        return
    dry_run = "--dry-run" in argv
    arguments = prepare([argument for argument in argv if argument not in FLAGS], program)
    flags = _flags(arguments)
    if flags.help:
        arguments.append("hydra.help.header=" + QuotedString(program.doc, Quote.single).with_quotes())
    elif not (flags.hydra_help or flags.info or flags.shell_completion):
        cfg, sweeps = precheck(program, flags)
        if not flags.cfg:
            check_targets(cfg)
        if dry_run:
            print("settings are good" + (" (of the sweep's first job)" if sweeps else ""), file=sys.stderr)
            return

    @functools.wraps(main)
    def job(cfg: DictConfig) -> Any:
        alone = HydraConfig.get().mode == RunMode.RUN
        try:
            read = settings(program, cfg)
            check_targets(read)
            folder = run_folder()
            read.out = str(folder)
            leave_record(folder, read)
            return main(read)
        except Exception as error:
            if alone:
                raise _Carried(error) from error
            raise  # a sweep's other jobs go on, and Hydra reports which one failed

    with _command_line(arguments):
        hydra_main(version_base="1.3", config_path=str(program.conf), config_name=program.config_name)(job)()


def prepare(argv: Sequence[str], program: Program) -> list[str]:
    """Arguments as Hydra's grammar wants them: paths and sentences quoted, `experiment=` appended."""
    multirun = any(a in ("-m", "--multirun") or a.lstrip("+").startswith("sweep=") for a in argv)
    _, groups = top_level(program.conf / f"{program.config_name}.yaml")
    prepared = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        if key in OVERLAYS and equals and key not in groups:
            argument = f"+{argument}"
        elif equals and key.lstrip("+").rpartition(".")[2] in TEXT_KEYS and not key.startswith("-"):
            argument = f"{key}={value}" if multirun and "," in value else f"{key}={quoted(value)}"
        prepared.append(argument)
    return prepared


def quoted(value: str) -> str:
    """`value` in quotes, unless Hydra reads it as it stands or it is written in Hydra's own grammar already."""
    written_for_hydra = (value[:1], value[-1:]) in {("'", "'"), ('"', '"'), ("[", "]")} or "${" in value
    if written_for_hydra or re.fullmatch(r"[\w./-]*", value, re.ASCII):
        return value
    return QuotedString(text=value, quote=Quote.single).with_quotes()


@functools.cache
def top_level(path: Path) -> tuple[set[str], dict[str, str | None]]:
    """The top-level keys that a config file states, and the groups in its defaults with the option chosen.

    Defaults that are files of our own (`base/app`) count as part of the file.
    """
    if not path.is_file():
        options = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise BadConfig(f"no top file {path.name} in {path.parent.name}/; there are {options}")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    stated = set(content) - {"defaults", "hydra"}
    groups: dict[str, str | None] = {}
    for entry in content.get("defaults", []):
        if isinstance(entry, str):
            included = path.parent / f"{entry.lstrip('/')}.yaml"
            if included.is_file():
                more_stated, more_groups = top_level(included)
                stated, groups = stated | more_stated, {**more_groups, **groups}
            continue
        for group, choice in entry.items():
            name = group.split()[-1].lstrip("/")
            if not name.startswith("hydra/") and not group.startswith("override "):
                package = name.rpartition("@")[2].partition("/")[0].partition(".")[0]
                groups[package] = choice or groups.get(package)
    return stated, groups


def known_top_level(conf: Path) -> set[str]:
    """Every top-level key that some program's top file has, as its own or as a group."""
    pairs = [top_level(path) for path in conf.glob("*.yaml")]
    return {key for stated, groups in pairs for key in (*stated, *groups)}


def precheck(program: Program, flags: Any) -> tuple[DictConfig, bool]:
    """Settings as the program will read them, checked before Hydra makes a run folder or starts a job.

    Returns:
        The settings (a sweep's: of its first job), and whether it is a sweep.
    """
    overrides = parse(flags.overrides)
    refuse_unread(program, overrides)
    single = [line for override in overrides if (line := _first_of_sweep(override)) is not None]
    cfg = _compose(program, single, flags)
    _check_hydra(cfg.hydra)
    _check_kinds(program, parse(single), flags)
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.runtime.output_dir = "."
        cfg.hydra.job.id, cfg.hydra.job.num = "0", 0
    HydraConfig.instance().set_config(cfg)  # for `${hydra:...}`
    try:
        if flags.cfg:  # shows the settings whether or not they are complete
            known_sections(program, cfg)
            return cfg, False
        return settings(program, cfg), bool(flags.multirun) or cfg.hydra.mode == RunMode.MULTIRUN
    finally:
        HydraConfig.instance().cfg = None


def parse(overrides: Sequence[str]) -> list[Override]:
    """Hydra's reading of `key=value` arguments."""
    parser = OverridesParser.create()
    parsed = []
    for line in overrides:
        key, equals, value = line.partition("=")
        if not equals and not line.startswith("~"):
            raise BadConfig(f"{line!r} is not a setting; settings are written key=value")
        try:
            parsed.append(parser.parse_override(line))
        except (OverrideParseException, HydraException) as error:
            hint = f'"{key}={QuotedString(value, Quote.single).with_quotes()}"'
            raise BadConfig(f"cannot read {line!r}; a value with special characters wants quotes: {hint}") from error
    return parsed


def refuse_unread(program: Program, overrides: Sequence[Override]) -> None:
    """Refuse what the user typed for a section that this program does not read."""
    keys, everywhere = program.keys, known_top_level(program.conf)
    for override in overrides:
        top = re.split(r"[./@]", override.key_or_group)[0]
        if top in keys or top == "hydra" or top in OVERLAYS:
            continue
        if top in everywhere:
            raise BadConfig(
                f"{override.input_line}: {program.config_name} does not read {top!r}; it reads {', '.join(sorted(keys))}"
            )
        raise BadConfig(f"unknown key {override.key_or_group!r}; {suggestion(override.key_or_group, _known(program))}")


def known_sections(program: Program, cfg: DictConfig) -> list[str]:
    """The top-level keys of `cfg` that the program reads; a key that no program has is a BadConfig."""
    keys, everywhere = program.keys, known_top_level(program.conf)
    for key in map(str, cfg):
        if key not in keys | everywhere | {"hydra"}:
            raise BadConfig(f"unknown top-level key {key!r} in an overlay; {suggestion(key, keys)}")
    return [str(key) for key in cfg if key in keys]


def settings(program: Program, cfg: DictConfig) -> DictConfig:
    """What the program reads of a composed config: resolved, complete, and closed to new keys.

    Raises:
        BadConfig: a missing value, an interpolation that cannot be resolved, or a wrong type.
    """
    sections = known_sections(program, cfg)
    missing = sorted(key for key in OmegaConf.missing_keys(cfg) if key.split(".")[0] in sections)
    if missing:
        raise BadConfig(f"missing: {', '.join(missing)}; give {missing[0]}=...")
    try:
        read = {key: config.plain(cfg[key]) for key in sections}
    except (OmegaConfBaseException, RecursionError) as error:
        raise BadConfig(config.explain(error)) from error
    for key, annotation in AppConfig.__annotations__.items():
        if annotation is str and not isinstance(read[key], str):
            read[key] = str(read[key])
        if not fits(read[key], annotation):
            raise BadConfig(f"{key}={read[key]}: expected {describe(annotation)}")
    return OmegaConf.create(read, flags={"struct": True})


def leave_record(folder: Path, cfg: DictConfig) -> None:
    """Write the resolved settings, what the user typed and where the run comes from into the run folder."""
    from core.provenance import provenance

    settings_read = OmegaConf.to_container(cfg)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")
    overrides = OmegaConf.to_yaml(HydraConfig.get().overrides.task)
    (folder / "overrides.yaml").write_text(overrides, encoding="utf-8")
    record = provenance(settings_read, seed=cfg.seed)  # type: ignore[arg-type]
    (folder / "provenance.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_user_error(error: Exception, program: Program, argv: Sequence[str]) -> UserError | None:
    """`error` as one line for the user; None if it is a bug."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = (error.missing_cfg_file or "").lstrip("/").rpartition("/")
        return BadConfig(f"{group}={option}: no such option; choose one of {', '.join(sorted(error.options))}")
    if isinstance(error, ConfigCompositionException):
        unknown = re.search(r"Could not override '([^']+)'", str(error))
        if unknown:
            key = unknown[1].partition("@")[0]
            return BadConfig(f"unknown key {key!r}; {suggestion(key, _known(program, argv))}")
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            return BadConfig(f"{str(error).splitlines()[0]}: {config.explain(cause)}")
        return BadConfig(str(error).splitlines()[0])
    if isinstance(error, HydraException | OmegaConfBaseException):
        return BadConfig(config.explain(error))
    return None


def _known(program: Program, argv: Sequence[str] = ()) -> set[str]:
    """The dotted keys that the program reads, with the groups' options as the user chose them where those exist."""
    try:
        chosen = [o.input_line for o in parse([a for a in argv if "=" in a and a[0] != "-"]) if _is_group(o, program.conf)]
        cfg = _compose(program, chosen)
    except (UserError, HydraException):
        try:
            cfg = _compose(program, [])
        except HydraException:
            return program.keys
    return {key for key in _flat(cfg) if key.split(".")[0] in program.keys}


def _flat(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_missing() or node._is_none() or node._is_interpolation()):
            yield from _flat(node, f"{prefix}{key}.")


def _is_group(override: Override, conf: Path) -> bool:
    key = override.key_or_group
    return "." not in key and any((root / key).is_dir() for root in (conf, CONF.parent / "launch"))


def _check_kinds(program: Program, overrides: Sequence[Override], flags: Any) -> None:
    """Refuse a typed value that is not of its default's kind, such as a word for a number."""
    values = [o for o in overrides if not (_is_group(o, program.conf) or o.is_delete() or o.key_or_group.startswith("hydra"))]
    if not values:
        return
    groups = [o.input_line for o in overrides if _is_group(o, program.conf)]
    defaults = _compose(program, groups, flags)
    for override in values:
        key = override.key_or_group
        try:
            default = OmegaConf.select(defaults, key, throw_on_missing=False)
        except OmegaConfBaseException:
            continue  # an interpolation to what only the run knows
        value = override.value()
        value = value.text if isinstance(value, QuotedString) else value
        if isinstance(value, str) and "${" in value:
            continue
        if not like_default(value, OmegaConf.to_container(default) if OmegaConf.is_config(default) else default):
            kind = describe(type(default)) if not OmegaConf.is_config(default) else "a list or section"
            raise BadConfig(f"{override.input_line}: expected {kind} (default {default})")


def _check_hydra(hydra: DictConfig) -> None:
    """An overlay may also set Hydra's own nodes, which Hydra builds: they may name Hydra's and logging's parts only."""
    node = OmegaConf.to_container(hydra, resolve=False)
    check_allowed(node, "hydra", ("hydra", "hydra_plugins"))
    for section in ("job_logging", "hydra_logging"):
        text = json.dumps(node.get(section), default=str)  # type: ignore[union-attr, call-overload]
        for factory in re.findall(r'"(?:\(\)|class)": "([^"]*)"', text):
            if factory.partition(".")[0] not in ("logging", "colorlog", "rich"):
                raise BadConfig(f"hydra.{section}: {factory} is not an allowed logging class")


def _first_of_sweep(override: Override) -> str | None:
    """An override with a single value, for checking a sweep by its first job; None for what cannot be expanded."""
    if not override.is_sweep_override():
        return override.input_line
    if override.is_choice_sweep() or override.is_range_sweep():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    return None


def _compose(program: Program, overrides: Sequence[str], flags: Any = None) -> DictConfig:
    name = getattr(flags, "config_name", None) or program.config_name
    folder = Path(getattr(flags, "config_path", None) or program.conf).resolve()
    extra = getattr(flags, "config_dir", None)
    search = [f"hydra.searchpath=[pkg://launch,'file://{Path(extra).resolve()}']"] if extra else []
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=[*overrides, *search], return_hydra_config=True)


def _flags(arguments: Sequence[str]) -> Any:
    """Hydra's own flags, parsed as it will; a wrong one is a BadConfig in one line."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise BadConfig(f"{message}; --help shows how to call this program")

    parser.error = refuse  # type: ignore[assignment, method-assign]
    return parser.parse_args(list(arguments))


@contextmanager
def _command_line(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads its arguments from `sys.argv`."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
