"""Small pickles that describe data sets: plain values and numpy arrays, the latter rebuilt by us from their notes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoints.pickles import Builder, Note, NotingUnpickler, Refused, as_mapping, broken_pickle_as, resolve
from core.errors import BadData


def read_legacy_pickle(path: str | Path) -> Any:
    """Lists, tuples, dicts, sets, strings, numbers, and numpy arrays and scalars of a pickle; anything else is refused.

    Meant for the small files that describe data sets (`uid_set.pkl`, `meta.pkl`, `camera-16.pkl`).
    """
    path = Path(path)
    if not path.is_file():
        raise BadData(f"no file {path}; check the path")
    with broken_pickle_as(BadData, path), path.open("rb") as file:
        content = resolve(NotingUnpickler(file).load(), DATA_BUILDERS)
        if file.read(1):
            raise BadData(f"{path}: more follows after the pickled object; this is no file of data")
        return content


def read_names(path: str | Path) -> list[str]:
    """A list of names: pickled (a set's are sorted), or a text file with one a line; BadData where it is neither."""
    path = Path(path)
    if path.suffix == ".pkl":
        names = read_legacy_pickle(path)
        if not isinstance(names, (list, tuple, set)) or not all(isinstance(name, str) for name in names):
            raise BadData(f"{str(path)!r} holds {type(names).__name__}, not a list of names")
        return sorted(names) if isinstance(names, set) else list(names)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadData(f"cannot read {str(path)!r}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        place = f"byte {error.start}"
        raise BadData(f"{str(path)!r} is no UTF-8 text ({place}); save it as UTF-8, or give a .pkl") from error
    return [line.strip() for line in lines if line.strip()]


def _array(note: Note, inner: Callable[[Any], Any]) -> np.ndarray:
    """`_reconstruct` and a state (version, shape, dtype, Fortran order, bytes), as numpy writes an array."""
    _, shape, dtype, fortran, data = (inner(x) if i != 4 else x for i, x in enumerate(_tuple(note.state, 5)))
    raw = data.encode("latin1") if isinstance(data, str) else inner(data)
    return _from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _frombuffer(note: Note, inner: Callable[[Any], Any]) -> np.ndarray:
    """Protocol 5's (bytes, dtype, shape, order)."""
    data, dtype, shape, order = (inner(x) for x in _tuple(note.args, 4))
    return _from_bytes(data, dtype, shape, order)


def _scalar(note: Note, inner: Callable[[Any], Any]) -> Any:
    dtype, data = (inner(x) for x in _tuple(note.args, 2))
    return _from_bytes(data.encode("latin1") if isinstance(data, str) else data, dtype, (), "C")[()]


def _from_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise Refused("it holds a malformed array")
    return np.frombuffer(data, dtype).copy().reshape(shape, order=order)


def _dtype(note: Note, _: Callable[[Any], Any]) -> np.dtype:
    """Numbers, booleans and strings of a fixed length; no objects and no records."""
    name = note.args[0] if note.args else None
    order = note.state[1] if isinstance(note.state, tuple) and len(note.state) > 1 else "="
    if not isinstance(name, str) or not re.fullmatch(r"[biufcSU]\d{1,4}", name) or order not in ("<", ">", "|", "="):
        raise Refused(f"it holds an array of {name!r}")
    return np.dtype(name) if order in "|=" else np.dtype(order + name)


def _tuple(value: Any, length: int) -> tuple:
    if not isinstance(value, tuple) or len(value) != length:
        raise Refused("it holds a malformed array")
    return value


def _text(note: Note, _: Callable[[Any], Any]) -> bytes:
    text, encoding = _tuple(note.args, 2)
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it holds malformed bytes")
    return text.encode("latin1")


def _collection(kind: Callable[[Any], Any]) -> Builder:
    """A set or the like, made from one container."""

    def build(note: Note, inner: Callable[[Any], Any]) -> Any:
        content = inner(note.args[0]) if note.args else ()
        if not isinstance(content, (list, tuple, bytes)):
            raise Refused("it holds a malformed container")
        return kind(content)

    return build


def _mapping(note: Note, inner: Callable[[Any], Any]) -> dict:
    return {inner(key): inner(value) for key, value in (as_mapping(note) or {}).items()}


def _complex(note: Note, _: Callable[[Any], Any]) -> complex:
    real, imaginary = _tuple(note.args, 2)
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise Refused("it holds a malformed number")
    return complex(real, imaginary)


DATA_BUILDERS: dict[str, Builder] = {
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _text,
    "collections.OrderedDict": _mapping,
    "builtins.set": _collection(set),
    "builtins.frozenset": _collection(frozenset),
    "builtins.bytearray": _collection(bytearray),
    "builtins.bytes": _collection(bytes),
    "builtins.complex": _complex,
}
