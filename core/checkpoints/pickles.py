"""Pickles read without running them.

A pickle is a program: it may call any function of any package. This reader executes only what builds lists, tuples,
dicts, sets, strings and numbers. Every class or function that a pickle asks for becomes a `Note` of its name and
arguments; nothing is imported or called. `resolve` then turns the notes that its caller knows (numpy arrays in
`datafiles`, tensors in `archives`) into values, from checked arguments.

A name from Python's own library other than a handful of plain types is refused at once (os.system, builtins.eval), and
so is a call of any function we do not know. A foreign class (a training callback, a configuration object) stays a
note, and is nobody's business unless it stands where a tensor should.
"""

import io
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from core.errors import UserError

MAX_DEPTH = 200  # of nested containers

# Python 2's and numpy 2's names of the same things.
OLD_NAMES = [("__builtin__.", "builtins."), ("copy_reg.", "copyreg."), ("numpy._core.", "numpy.core.")]

# Names of Python's library that training frameworks write; as notes they are as inert as any other.
PLAIN_TYPES = frozenset(
    [
        "_codecs.encode",
        "argparse.Namespace",
        "builtins.bool",
        "builtins.bytearray",
        "builtins.bytes",
        "builtins.complex",
        "builtins.dict",
        "builtins.float",
        "builtins.frozenset",
        "builtins.int",
        "builtins.list",
        "builtins.object",
        "builtins.range",
        "builtins.set",
        "builtins.slice",
        "builtins.str",
        "builtins.tuple",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "copyreg._reconstructor",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.timezone",
        "functools.partial",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "types.SimpleNamespace",
        "typing.Any",
        "uuid.UUID",
    ]
)
# Functions of the field's packages that take part in pickling data; again, as notes.
PLAIN_FUNCTIONS = frozenset(
    [
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "numpy.dtype",
        "numpy.ndarray",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch.device",
        "torch.serialization._get_layout",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag",
    ]
)
# Modules that other packages import, and through which a pickle could name them by a detour (torch.os.system).
POWERS = frozenset(
    ["builtins", "ctypes", "importlib", "nt", "os", "posix", "pty", "runpy", "shutil", "socket", "subprocess", "sys"]
)
MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter")


class Refused(Exception):
    """A pickle that asks for what data never needs."""


class Note:
    """Stands for a class, a function or an instance: what a pickle asked for, never done."""

    path: ClassVar[str] = ""
    callable: ClassVar[bool] = True
    args: tuple
    items: list[tuple[Any, Any]]
    state: Any = None

    def __new__(cls, *args: Any, **_: Any) -> "Note":
        if not cls.callable:
            raise Refused(f"it calls {cls.path}")
        note = object.__new__(cls)
        note.args, note.items = args, []
        return note

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, _: Any) -> None:
        """A list's subclass is filled through this; its content is not kept."""

    extend = add = append


Builder = Callable[[Note, Callable[[Any], Any]], Any]


# The reader in C keeps a table as long as the largest index that a pickle names, so ten bytes could claim all memory;
# the one in Python keeps a dict, and is fast enough for what a file holds beside its numbers.
class NotingUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """Executes a pickle's containers and notes everything else."""

    def __init__(self, file: io.BufferedIOBase, persistent: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote arrays as strings
        self._persistent = persistent
        self._classes: dict[str, type[Note]] = {}

    def find_class(self, module: str, name: str) -> type[Note]:
        path = f"{module}.{name}"
        for old, new in OLD_NAMES:
            path = new + path.removeprefix(old) if path.startswith(old) else path
        if path not in self._classes:
            self._classes[path] = type("Note", (Note,), {"path": path, "callable": _may_be_called(path)})
        return self._classes[path]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise Refused("it refers to data outside of itself")
        return self._persistent(pid)


def _may_be_called(path: str) -> bool:
    """Whether a note may stand for a call of `path`; names that data never holds are refused altogether."""
    root, last = path.partition(".")[0], path.rpartition(".")[2]
    if path in PLAIN_TYPES or path in PLAIN_FUNCTIONS or root == "__torch__":
        return True
    if root in sys.stdlib_module_names or not POWERS.isdisjoint(path.split(".")[1:-1]):
        raise Refused(f"it asks for {path}")
    return last[:1].isupper()  # classes by the usual spelling; functions may be named, not called


@contextmanager
def broken_pickle_as(error: type[UserError], path: Path) -> Iterator[None]:
    """Every failure to parse a foreign file, in one line that names it."""
    try:
        yield
    except (UserError, FileNotFoundError, PermissionError):
        raise
    except Refused as refusal:
        raise error(
            f"{path}: not loaded, nothing of it was run: {refusal}, which no weights or data need; "
            "get the file from its official source, or as .safetensors"
        ) from None
    except RecursionError as cause:
        raise error(f"{path}: not loaded: nested too deeply for data") from cause
    except Exception as cause:  # a parser of foreign bytes may stumble over anything
        raise error(f"{path}: broken or truncated ({type(cause).__name__}: {cause}); fetch the file again") from cause


def resolve(value: Any, builders: Mapping[str, Builder], *, strict: bool = True) -> Any:
    """Containers with their notes turned into values by `builders`.

    Args:
        strict: whether a note without a builder is refused, or stays.
    """
    done: dict[int, Any] = {}
    running: set[int] = set()

    def walk(item: Any, depth: int = 0) -> Any:
        if item is None or isinstance(item, (bool, int, float, complex, str, bytes, bytearray)):
            return item
        if id(item) in done:
            return done[id(item)]
        if id(item) in running or depth > MAX_DEPTH:
            raise Refused("it holds a container within itself")
        running.add(id(item))
        done[id(item)] = build(item, lambda inner: walk(inner, depth + 1))
        running.remove(id(item))
        return done[id(item)]

    def build(item: Any, inner: Callable[[Any], Any]) -> Any:
        if isinstance(item, (list, tuple, set, frozenset)):
            return type(item)(inner(x) for x in item)
        if isinstance(item, dict):
            return {inner(key): inner(x) for key, x in item.items()}
        if isinstance(item, Note) and item.path in builders:
            return builders[item.path](item, inner)
        if strict:
            raise Refused(f"it holds an object of {getattr(item, 'path', type(item).__name__)}")
        return item

    return walk(value)


def as_mapping(value: Any) -> dict | None:
    """The content of a dict, or of a note that stands for one; None for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Note) and value.path in MAPPINGS:
        pairs = [] if value.path != "collections.OrderedDict" or not value.args else value.args[0]
        return dict([*map(tuple, pairs), *value.items])
    return None
