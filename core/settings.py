"""A program's settings: composed by Hydra, and checked before anything is made of them.

`precheck` refuses what the program does not read and checks all settings before Hydra itself makes a run folder or
starts a job. What the user typed is read by `core.command_line`, what a program reads is told by `core.program`.
Nothing here imports torch.
"""

import json
import re
import shutil
from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from core import config
from core.command_line import OVERLAYS, first_of_sweep, parse
from core.complaints import unknown_key
from core.compose import composed, flat, group_choices
from core.config import AppConfig, check_allowed, describe, fits, like_default, suggestion
from core.errors import BadConfig
from core.program import Program, group_options, known_top_level

# What may be switched off by null although an overlay, or the default, gives it a value. Arguments of our own classes
# and functions are not listed: their annotations say so.
NULLABLE = frozenset(
    f"trainer.{key}"
    for key in ("time_limit_min", "clip_norm", "ema_decay", "val_every", "val_batches", "preview_every", "keep_every")
) | {"data.val", "data.preview", "data.report", "image.max_size", "text_cache"}


def precheck(program: Program, flags: Any) -> tuple[DictConfig, bool]:
    """Settings as the program will read them, checked before Hydra makes a run folder or starts a job.

    Returns:
        The settings (a sweep's: of its first job), and whether it is a sweep.
    """
    overrides = parse(flags.overrides)
    refuse_unread(program, overrides)
    single = [line for override in overrides if (line := first_of_sweep(override)) is not None]
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
        raise BadConfig(unknown_key(program, override.key_or_group))


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
    missing = sorted(key for key in flat(cfg) if key.split(".")[0] in sections and _is_missing(cfg, key))
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


def _is_missing(cfg: DictConfig, key: str) -> bool:
    node: Any = cfg
    for part in key.split("."):
        node = node._get_node(part)
    return node._is_missing()


def _check_kinds(program: Program, overrides: Sequence[Override], flags: Any) -> None:
    """Refuse a typed value that is not of its default's kind, such as a word for a number.

    Where the key is an argument of ours, whatever its annotation allows is of its kind, such as a list for a number.
    """
    groups = group_choices(program, overrides)
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
        plain = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
        if not like_default(value, plain) and not _is_allowed_argument(defaults, key, value):
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


def _is_allowed_argument(defaults: DictConfig, key: str, value: Any) -> bool:
    """Whether `key` is an argument of a class or function of ours whose annotation allows `value`."""
    parent, _, last = key.rpartition(".")
    section: Any = OmegaConf.select(defaults, parent, throw_on_missing=False) if parent else None
    if value is None or not isinstance(section, DictConfig):
        return False
    target = str(section.get("_target_"))
    return config.inside(target, config.OURS) and config.argument_allows(target, last, value)


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
