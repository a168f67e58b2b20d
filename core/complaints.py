"""What a mistake in the settings is answered with: one line, with the nearest key or the options. Imports no torch."""

import re
from collections.abc import Sequence
from contextlib import suppress

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from core import config
from core.command_line import parse
from core.compose import composed, flat, group_choices
from core.config import nearest, suggestion
from core.errors import BadConfig, UserError
from core.program import Program, group_options, top_level


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
            return BadConfig(unknown_key(program, key, argv))
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


def unknown_key(program: Program, key: str, argv: Sequence[str] = ()) -> str:
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
        cfg = composed(program, group_choices(program, parse([a for a in argv if "=" in a and a[0] != "-"])))
    except (UserError, HydraException, yaml.YAMLError):
        try:
            cfg = composed(program, [])
        except (UserError, HydraException, yaml.YAMLError):
            return program.keys
    return {key for key in flat(cfg) if key.split(".")[0] in program.keys}
