"""From what the user typed to overrides in Hydra's grammar. Imports no torch."""

import re
from collections.abc import Sequence
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException

from core.errors import BadConfig
from core.program import Program, top_level

OVERLAYS = ("experiment", "sweep")  # groups of whole experiments, not sections of the settings
# Values of these keys are paths or sentences: they may hold spaces, commas, `=`, brackets and any letter, unquoted.
PATH_KEYS = ("input", "poses", "input_poses", "source", "views", "pred", "gt", "run", "scores", "publish", "target",
             "reference", "mask", "out", "root", "free", "free_root", "official", "checkpoint", "weights", "mesh",
             "report", "target_dir", "input_dir", "uids", "registry", "mirror", "base_url")  # fmt: skip
TEXT_KEYS = frozenset((*PATH_KEYS, "prompt", "prompts", "suffix", "negative_prompt", "lora", "caption", "licence",
                       "text_cache", "format"))  # fmt: skip


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


def first_of_sweep(override: Override) -> str | None:
    """An override with a single value, for checking a sweep by its first job; None for what cannot be expanded."""
    if not override.is_sweep_override():
        return override.input_line
    if override.is_choice_sweep() or override.is_range_sweep():
        return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
    return None


def parse_flags(arguments: Sequence[str]) -> Any:
    """Hydra's own flags, wherever they stand between the settings; a wrong one is a BadConfig in one line."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise BadConfig(f"{message}; --help shows how to call this program")

    parser.error = refuse  # type: ignore[assignment, method-assign]
    return parser.parse_intermixed_args(list(arguments))
