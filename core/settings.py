"""From what the user typed to what a program reads.

`precheck` parses the command line, refuses what the program does not read, composes the settings by Hydra and checks
them, all before Hydra itself makes a run folder or starts a job. `as_user_error` turns Hydra's own complaints into one
line.
Nothing here imports torch.
"""

import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from core import config
from core.config import CONF, AppConfig, check_allowed, describe, fits, like_default, nearest, suggestion
from core.errors import BadConfig, UserError

LAUNCH = CONF.parent / "launch"  # Hydra finds its groups through `hydra.searchpath`, see `searchpath`
# What may be switched off by null although an overlay, or the default, gives it a value. Arguments of our own classes
# and functions are not listed: their annotations say so.
NULLABLE = frozenset(
    f"trainer.{key}"
    for key in ("time_limit_min", "clip_norm", "ema_decay", "val_every", "val_batches", "preview_every", "keep_every")
) | {"data.val", "data.preview", "image.max_size"}
OVERLAYS = ("experiment", "sweep")  # groups of whole experiments, not sections of the settings
# Values of these keys are paths or sentences: they may hold spaces, commas, `=`, brackets and any letter, unquoted.
PATH_KEYS = ("input", "source", "views", "pred", "target", "reference", "mask", "out", "root", "checkpoint", "weights",
             "mesh", "report", "target_dir", "input_dir", "uids", "registry", "mirror", "base_url")  # fmt: skip
TEXT_KEYS = frozenset((*PATH_KEYS, "prompt", "caption", "licence"))


@dataclass(frozen=True)
class Program:
    """A program as `app` declares it."""

    config_name: str
    reads: tuple[str, ...] | None
    doc: str
    conf: Path = CONF
    check: Callable[[dict[str, Any]], None] | None = None

    @property
    def keys(self) -> set[str]:
        """The top-level keys that it reads."""
        stated, groups = top_level(self.conf / f"{self.config_name}.yaml")
        return stated | set(self.reads if self.reads is not None else (g for g, choice in groups.items() if choice))


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
    quotes = {("'", "'"), ('"', '"'), ("[", "]"), ("{", "}")}
    written_for_hydra = (value[:1], value[-1:]) in quotes or "${" in value
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
    with path.open("rb") as file:
        content = yaml.safe_load(file) or {}
    if not isinstance(content, dict) or not isinstance(content.get("defaults", []), list):
        raise BadConfig(f"{path}: expected lines `key: value`, and a list of defaults")
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
    keys: set[str] = set()
    for path in conf.glob("*.yaml"):
        try:
            stated, groups = top_level(path)
            keys |= {*stated, *groups}
        except (BadConfig, yaml.YAMLError):  # another program's, half edited: it stops that program only
            keys |= set(re.findall(r"^(\w+):", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    return keys


def precheck(program: Program, flags: Any) -> tuple[DictConfig, bool]:
    """Settings as the program will read them, checked before Hydra makes a run folder or starts a job.

    Returns:
        The settings (a sweep's: of its first job), and whether it is a sweep.
    """
    overrides = parse(flags.overrides)
    refuse_unread(program, overrides)
    single = [line for override in overrides if (line := _first_of_sweep(override)) is not None]
    cfg = composed(program, single, flags)
    _check_hydra(cfg.hydra)
    _check_cluster(cfg.hydra)
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
    keys = program.keys
    for override in overrides:
        top = re.split(r"[./@]", override.key_or_group)[0]
        options = group_options(program, override.key_or_group)
        if options and not override.is_delete() and override.value() is None:
            raise BadConfig(f"{override.input_line}: choose one of {', '.join(options)}")
        if top in keys or top == "hydra" or top in OVERLAYS:
            continue
        if top in known_top_level(program.conf):
            reads = ", ".join(sorted(keys))
            raise BadConfig(f"{override.input_line}: {program.config_name} does not read {top!r}; it reads {reads}")
        raise BadConfig(_unknown(program, override.key_or_group))


def known_sections(program: Program, cfg: DictConfig) -> list[str]:
    """The top-level keys of `cfg` that the program reads; a key that no program has is a BadConfig."""
    keys = program.keys
    for key in map(str, cfg):
        if key not in keys | {"hydra"} and key not in known_top_level(program.conf):
            raise BadConfig(f"unknown top-level key {key!r} in an overlay; {suggestion(key, keys)}")
    return [str(key) for key in cfg if key in keys]


def settings(program: Program, cfg: DictConfig) -> DictConfig:
    """What the program reads of a composed config: resolved, complete, and closed to new keys.

    Raises:
        BadConfig: a missing value, an interpolation that cannot be resolved, a wrong type, or what the program's own
            check refuses.
    """
    sections = known_sections(program, cfg)
    missing = sorted(key for key in _flat(cfg) if key.split(".")[0] in sections and _is_missing(cfg, key))
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
    if program.check is not None:
        program.check(read)
    return OmegaConf.create(read, flags={"struct": True})


def as_user_error(error: Exception, program: Program, argv: Sequence[str]) -> UserError | None:
    """`error` as one line for the user; None if it is a bug."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException) and error.options is not None:
        missing = (error.missing_cfg_file or "").lstrip("/")
        if missing.startswith("hydra/"):
            group, _, option = missing.rpartition("/")
            options = sorted(error.options)
        else:
            group, _, option = missing.partition("/")
            options = group_options(program, group)
        return BadConfig(f"{group}={option}: no such option; choose one of {', '.join(options)}")
    if isinstance(error, ConfigCompositionException):
        unknown = re.search(r"Could not override '([^']+)'", str(error))
        if unknown:
            key = unknown[1].partition("@")[0]
            return BadConfig(_unknown(program, key, argv))
        cause = error.__cause__
        if isinstance(cause, OmegaConfBaseException):
            return BadConfig(f"{str(error).splitlines()[0]}: {config.explain(cause)}")
        first, *rest = [line.strip() for line in str(error).splitlines()]
        return BadConfig(f"{first}; choose one of {', '.join(rest[1:])}" if "must specify" in first else first)
    if type(error).__name__ == "FailedJobError" and type(error).__module__.startswith("submitit"):
        return BadConfig(f"SLURM refused the job: {error}")
    if isinstance(error, yaml.YAMLError):
        return BadConfig(f"not YAML: {error}")
    if isinstance(error, HydraException | OmegaConfBaseException):
        return BadConfig(config.explain(error))
    return None


def group_options(program: Program, group: str) -> list[str]:
    """A group's options, those in sub-folders too."""
    roots = [root / group for root in (program.conf, LAUNCH)]
    files = {file.relative_to(root) for root in roots for file in root.rglob("*.yaml")}
    return sorted(file.with_suffix("").as_posix() for file in files)


def _unknown(program: Program, key: str, argv: Sequence[str] = ()) -> str:
    """The message on an unknown key, with the nearest one: this program's, or else another's."""
    readers: dict[str, set[str]] = {}
    for path in program.conf.glob("*.yaml"):
        with suppress(BadConfig, yaml.YAMLError):
            top_level(path)  # refuses a broken file in fewer ways than Hydra does
            readers[path.stem] = _known(Program(path.stem, None, "", program.conf))
    known = _known(program, argv)
    match = nearest(key, known.union(*readers.values()))
    if match is None or match in known:
        return f"unknown key {key!r}; {suggestion(key, known)}"
    family = program.config_name.partition("_")[0]
    reader = min((r for r in readers if match in readers[r]), key=lambda r: (not r.startswith(family), r))
    return f"unknown key {key!r}; the nearest is {match!r}, which {reader} reads and {program.config_name} not"


def _known(program: Program, argv: Sequence[str] = ()) -> set[str]:
    """The dotted keys that the program reads, with the groups' options as the user chose them where those exist."""
    try:
        cfg = composed(program, _group_choices(program, parse([a for a in argv if "=" in a and a[0] != "-"])))
    except (UserError, HydraException, yaml.YAMLError):
        try:
            cfg = composed(program, [])
        except (UserError, HydraException, yaml.YAMLError):
            return program.keys
    return {key for key in _flat(cfg) if key.split(".")[0] in program.keys}


def _flat(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key, without resolving any value."""
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node: Any = cfg._get_node(key)
        if isinstance(node, DictConfig) and not (node._is_missing() or node._is_none() or node._is_interpolation()):
            yield from _flat(node, f"{prefix}{key}.")


def _is_missing(cfg: DictConfig, key: str) -> bool:
    node: Any = cfg
    for part in key.split("."):
        node = node._get_node(part)
    return node._is_missing()


def _group_choices(program: Program, overrides: Sequence[Override]) -> list[str]:
    """The overrides that choose an option of a group."""
    chosen = []
    for override in overrides:
        key = override.key_or_group.partition("@")[0]
        if "." not in key and any((root / key).is_dir() for root in (program.conf, LAUNCH)):
            chosen.append(str(override.input_line))
    return chosen


def _check_kinds(program: Program, overrides: Sequence[Override], flags: Any) -> None:
    """Refuse a typed value that is not of its default's kind, such as a word for a number."""
    groups = _group_choices(program, overrides)
    values = [o for o in overrides if o.input_line not in groups and not o.is_delete()]
    values = [o for o in values if not o.key_or_group.startswith("hydra")]
    if not values:
        return
    defaults = composed(program, groups, flags)
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
        if value is None and _may_be_null(defaults, key):
            continue
        if value is None and default is None:  # what the user must supply
            raise BadConfig(f"{override.input_line}: expected a value")
        if not like_default(value, OmegaConf.to_container(default) if OmegaConf.is_config(default) else default):
            kind = describe(type(default)) if not OmegaConf.is_config(default) else "a list or section"
            raise BadConfig(f"{override.input_line}: expected {kind} (default {default})")


def _may_be_null(defaults: DictConfig, key: str) -> bool:
    """Whether null means something at `key`, or is for an annotation to judge (`check_targets`)."""
    parent, _, last = key.rpartition(".")
    section: Any = OmegaConf.select(defaults, parent, throw_on_missing=False) if parent else defaults
    if key in NULLABLE or section is None:
        return True
    if not isinstance(section, DictConfig):
        return False  # an item of a list
    node: Any = section._get_node(last)
    if node is None or config.inside(str(section.get("_target_")), config.OURS):
        return True
    return not node._is_missing() and section[last] is None


def _check_hydra(hydra: DictConfig) -> None:
    """An overlay may also set Hydra's own nodes, which Hydra builds: they may name Hydra's and logging's parts only."""
    node = OmegaConf.to_container(hydra, resolve=False)
    check_allowed(node, "hydra", ("hydra", "hydra_plugins"))
    for section in ("job_logging", "hydra_logging"):
        text = json.dumps(node.get(section), default=str)  # type: ignore[union-attr, call-overload]
        for factory in re.findall(r'"(?:\(\)|class)": "([^"]*)"', text):
            if factory.partition(".")[0] not in ("logging", "colorlog", "rich"):
                raise BadConfig(f"hydra.{section}: {factory} is not an allowed logging class")


def _check_cluster(hydra: DictConfig) -> None:
    launcher = str(OmegaConf.select(hydra, "launcher._target_"))
    if launcher.endswith("SlurmLauncher") and shutil.which("sbatch") is None:
        raise BadConfig(
            "hydra/launcher: no SLURM here (sbatch is not on PATH); hydra/launcher=local runs the same jobs"
        )


def _first_of_sweep(override: Override) -> str | None:
    """An override with a single value, for checking a sweep by its first job; None for what cannot be expanded."""
    if not override.is_sweep_override():
        return override.input_line
    if override.is_choice_sweep() or override.is_range_sweep():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    return None


def composed(program: Program, overrides: Sequence[str], flags: Any = None) -> DictConfig:
    """The whole config as Hydra composes it, its own `hydra` section included; `flags` may name other files."""
    name = getattr(flags, "config_name", None) or program.config_name
    folder = Path(getattr(flags, "config_path", None) or program.conf).resolve()
    extra = getattr(flags, "config_dir", None)
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=[*overrides, *searchpath(overrides, extra)], return_hydra_config=True)


def searchpath(overrides: Sequence[str], extra: str | None = None) -> list[str]:
    """The override by which Hydra finds the launchers and sweeps in launch/, unless the user gives a search path."""
    if any(override.startswith("hydra.searchpath=") for override in overrides):
        return []
    folders = ["pkg://launch", *([f"'file://{Path(extra).resolve()}'"] if extra else [])]
    return [f"hydra.searchpath=[{','.join(folders)}]"]


def parse_flags(arguments: Sequence[str]) -> Any:
    """Hydra's own flags, wherever they stand between the settings; a wrong one is a BadConfig in one line."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise BadConfig(f"{message}; --help shows how to call this program")

    parser.error = refuse  # type: ignore[assignment, method-assign]
    return parser.parse_intermixed_args(list(arguments))
