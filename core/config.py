"""Settings: what a program reads, and whether each section of it fits the code that it names.

A config node with `_target_` names a class or function of ours or of the few libraries below; its other keys are that
callable's keyword arguments. So the signature is the schema: `check_targets` binds every node to it before anything is
built, and a misspelt, missing or wrongly typed argument is refused with its path. Nothing here imports torch.
"""

import builtins
import collections.abc
import difflib
import enum
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from core.errors import BadConfig, UserError

CONF = Path(__file__).resolve().parent.parent / "conf"

OURS = ("core", "projects", "data_tools", "benchmarks")
# A config file may come from a stranger, and `_target_` calls what it names: only these may be named.
ALLOWED = (*OURS, "diffusers", "transformers", "torch.optim", "torch.nn", "lightning")
RESERVED = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}


@dataclass(frozen=True)
class AppConfig:
    """What every program reads; the rest of a program's settings stand in its top file in `conf/`.

    Args:
        name: The program's or system's name; default run folders are `outputs/<name>/<date>/<time>`.
        seed: All randomness of a run is a function of it.
        out: The run folder.
    """

    name: str
    seed: int
    out: str


LIKENESS = 0.6  # below this a word resembles a key by accident
LISTED = 20


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known key that looks most like `word`, if one does; a dotted key may match by its last part."""

    def likeness(candidate: str) -> float:
        def ratio(a: str, b: str) -> float:
            return difflib.SequenceMatcher(None, a, b).ratio()

        (group, _, tail), (place, _, end) = word.rpartition("."), candidate.rpartition(".")
        contained = 0.25 if end and (tail.startswith(end) or end.startswith(tail)) else 0.0
        same_group = 0.3 if group and group == place else 0.0
        return max(ratio(word, candidate), ratio(tail, end) - 0.01) + max(contained, same_group)

    match = max(sorted(known), key=likeness, default=None)
    return match if match is not None and likeness(match) >= LIKENESS else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """The half sentence that ends the message on an unknown key: the nearest one, or the top-level ones there are."""
    known = set(known)
    match = nearest(word, known)
    if match:
        return f"the nearest known key is {match!r}"
    keys = sorted({key.partition(".")[0] for key in known})
    if len(keys) > LISTED:
        keys = [*keys[:LISTED], "..."]
    return f"known are {', '.join(keys)}" if keys else "it takes no keys"


def one_of(key: str, value: Any, options: Sequence[Any]) -> Any:
    """`value` if it is one of `options`, else a BadConfig that lists them."""
    if value not in options:
        raise BadConfig(f"{key}={value}: choose one of {', '.join(map(str, options))}")
    return value


def whole(key: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Refuses all but whole numbers from `least` to `most`, by a BadConfig that names `key`."""
    if not fits(value, int) or value < least or (most is not None and value > most):
        raise BadConfig(f"{key}={value}: expected a whole number {_range(least, most)}")


def number(
    key: str, value: Any, least: int | float = -math.inf, most: int | float = math.inf, *, above: bool = False
) -> None:
    """Refuses all but finite numbers from `least` to `most`, by a BadConfig that names `key`.

    Args:
        above: `least` itself is refused too.
    """
    good = fits(value, float) and math.isfinite(value) and least <= value <= most and not (above and value == least)
    if not good:
        raise BadConfig(f"{key}={value}: expected a number {_range(least, most, above)}")


def _range(least: int | float, most: int | float | None, above: bool = False) -> str:
    bounded = most is not None and math.isfinite(most)
    if not math.isfinite(least):
        return "that is finite"
    if above:
        return f"above {least:g}" + (f" and at most {most:g}" if bounded else "")
    return f"from {least:g} to {most:g}" if bounded else f"of at least {least:g}"


def plain(node: Any) -> Any:
    """A config node as dicts, lists and scalars, interpolations resolved; a bad interpolation is a BadConfig."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not OmegaConf.is_config(node):
        return node
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise BadConfig(explain(error)) from error


def explain(error: BaseException) -> str:
    """An OmegaConf error in one line, with the key it happened at."""
    if isinstance(error, RecursionError):
        return "an interpolation refers to itself"
    message = str(getattr(error, "msg", None) or error).splitlines()[0]
    key = getattr(error, "full_key", None)
    return f"{key}: {message}" if key else message


def check_targets(cfg: Any, path: str = "") -> None:
    """Bind each node that has `_target_` to the signature it names.

    Args:
        cfg: A DictConfig, or the dicts and lists inside one.
        path: The dotted key at which `cfg` stands, for messages.

    Raises:
        BadConfig: a target outside the allow-list or that does not exist; an argument that its signature lacks, lacks
            a default for (unless `_partial_`), or annotates as another type.
    """
    for where, node in _targets(plain(cfg), path):
        _bind(where, node)


def instantiate(node: Any, **kwargs: Any) -> Any:
    """Build what `node` describes, after `check_targets`; `kwargs` are arguments that only the program knows.

    Containers arrive as plain lists and dicts, so that diffusers and transformers can save them.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate
    from omegaconf import OmegaConf

    settings = plain(node)
    for where, target in _targets(settings, ""):
        _bind(where, target, given=frozenset(kwargs) if target is settings else frozenset())
    try:
        return hydra_instantiate(OmegaConf.create(settings, flags={"allow_objects": True}), _convert_="all", **kwargs)
    except InstantiationException as error:
        # Hydra wraps whatever a constructor raised; the user's fault is in the cause, and a bug is to stay a bug.
        cause = error.__cause__
        if cause is None or isinstance(cause, UserError):
            raise (cause or error) from error
        if isinstance(cause, ValueError):
            raise BadConfig(f"{explain(error)} {cause}") from error
        raise cause from error


def check_allowed(cfg: Any, path: str, allowed: Sequence[str]) -> None:
    """Refuse targets outside `allowed` without importing them: for the sections that Hydra itself builds."""
    for where, node in _targets(cfg, path):
        if not inside(str(node["_target_"]), allowed):
            raise BadConfig(f"{where}._target_={node['_target_']}: not an allowed target ({', '.join(allowed)})")


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with `_target_` below `node`, and where it stands."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        children: Iterable[tuple[Any, Any]] = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from _targets(child, f"{path}.{key}" if path else str(key))


def inside(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted name is one of `prefixes`, or stands below one."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _locate(target: str, where: str) -> Callable[..., Any]:
    """The callable with that dotted name."""
    refusal = f"{where}._target_={target}: " if where else f"_target_={target}: "
    if not inside(target, ALLOWED):
        raise BadConfig(f"{refusal}not an allowed target; config files may only name {', '.join(ALLOWED)}")
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: Any = import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and inside(module_name, [error.name]):
                continue
            raise BadConfig(f"{refusal}{module_name} needs {error.name}, which is not installed") from error
        for part in parts[cut:]:
            if not hasattr(found, part):
                raise BadConfig(f"{refusal}no such name; {suggestion(part, [n for n in dir(found) if n[0] != '_'])}")
            found = getattr(found, part)
        # `core.x.os.system` starts with an allowed prefix; what counts is where the thing itself was defined.
        home = str(getattr(found, "__module__", None) or type(found).__module__)
        if not callable(found) or not inside(home, ALLOWED):
            raise BadConfig(f"{refusal}not an allowed target: it is {home}'s, not a class or function of {parts[0]}")
        return found
    raise BadConfig(f"{refusal}no such module")


def _bind(where: str, node: Mapping[str, Any], given: frozenset[str] = frozenset()) -> None:
    """Check one node's keys and values against the signature of its target."""
    target = str(node["_target_"])
    found = _locate(target, where)
    arguments = {key: value for key, value in node.items() if key not in RESERVED}
    if "trust_remote_code" in arguments:
        raise BadConfig(f"{where}.trust_remote_code: configs may not run code from a download")
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return  # a builtin without a signature
    parameters = list(signature.parameters.values())
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"}
    prefix = f"{where}." if where else ""
    for key in arguments:
        if key not in named and not takes_any:
            raise BadConfig(f"unknown key '{prefix}{key}' for {target}; {suggestion(str(key), named)}")
    positional = list(named)[: len(node.get("_args_", ()))]
    missing = [
        name
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in {*arguments, *given, *positional}
    ]
    if missing and not node.get("_partial_"):
        raise BadConfig(f"{target} at '{where}' needs {', '.join(missing)}; set {prefix}{missing[0]}=...")
    if inside(target, OURS):  # libraries' annotations are not always true
        hints = _hints(found)
        for key, value in arguments.items():
            if key in hints and not fits(value, hints[key]):
                raise BadConfig(f"{prefix}{key}={_short(value)}: expected {describe(hints[key])} for {target}")


def argument_allows(target: str, name: str, value: Any) -> bool:
    """Whether the callable named `target` annotates an argument `name`, and so that `value` fits."""
    hints = _hints(_locate(target, ""))
    return name in hints and fits(value, hints[name])


def _hints(found: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(found.__init__ if inspect.isclass(found) else found)
    except Exception:  # a name that exists for type checkers only
        return {}


def fits(value: Any, annotation: Any) -> bool:
    """Whether a config value is of the annotated type; what a config cannot express passes."""
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if annotation is Path:
        return isinstance(value, str | os.PathLike)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return value in annotation.__members__
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return isinstance(value, list | tuple) and _items_fit(value, origin, arguments)
    if annotation in (list, tuple):
        return isinstance(value, list | tuple)
    if annotation is dict or origin in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if value is None:
        return annotation in (Any, object)
    return collections.abc.Callable not in (origin, annotation)


def _items_fit(value: Sequence[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    return not arguments or all(fits(item, arguments[0]) for item in value)


def describe(annotation: Any) -> str:
    """A type as a user would say it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    if annotation in words:
        return words[annotation]
    if annotation is type(None):
        return "null"
    if origin in (list, tuple, collections.abc.Sequence):
        return "a list" + (f" of {describe(arguments[0])}" if arguments else "")
    return getattr(annotation, "__name__", str(annotation))


def like_default(value: Any, default: Any) -> bool:
    """Whether a value that replaces `default` is of its kind; a null default accepts anything, text any scalar."""
    if default is None or value is None:
        return default is None
    if isinstance(default, str) and not isinstance(value, list | dict):
        return True
    if isinstance(default, Mapping) or isinstance(value, Mapping):
        return isinstance(default, Mapping) == isinstance(value, Mapping)
    if isinstance(default, list) or isinstance(value, list):
        return isinstance(default, list) == isinstance(value, list)
    return fits(value, builtins.type(default))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
