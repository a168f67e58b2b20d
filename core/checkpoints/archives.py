"""Files of torch, read without running them: `torch.save` (zip, and the older sequence of pickles) and TorchScript.

Tensors are views of the memory-mapped file, checked against the sizes the file really has and, in zips, against the
records' CRC; the pickle inside goes through `pickles`.
"""

import ast
import io
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints.datafiles import DATA_BUILDERS
from core.checkpoints.pickles import Note, NotingUnpickler, Refused, resolve

# Of the older format: three pickles with these contents precede the object.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
MAX_CODE = 16 * 2**20  # bytes of one TorchScript source file, unpacked
MAX_EXPANDED = 2**20  # numbers of a tensor whose strides repeat a smaller storage

STORAGES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64,
}  # fmt: skip
STORAGE_TYPES = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()} | {
    "torch.storage.UntypedStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
}


@dataclass(frozen=True)
class Storage:
    """What a pickle says of a block of numbers; nothing is believed before it is compared with the file."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Archive:
    """An unpickled file: `content` still holds notes, and `tensors(part)` resolves those of a part of it."""

    content: Any
    tensors: Callable[[Any], Any]


def read_zip(path: Path) -> Archive:
    """What `torch.save` or `torch.jit.save` wrote since torch 1.6."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {info.filename: info for info in archive.infolist()}
        if len(records) != len(archive.infolist()):
            raise Refused("two of its records have the same name")
        pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("it is a zip without torch's data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        order = records.get(f"{root}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise Refused("its numbers are big-endian")
        memory = _map(file)
        data = _record(memory, records[pickles[0]], path)
        content = NotingUnpickler(io.BytesIO(data), _storage).load()

        def bytes_of(storage: Storage) -> memoryview:
            info = records.get(f"{root}data/{storage.key}")
            if info is None:
                raise Refused(f"record {storage.key!r} is missing")
            return _record(memory, info, path)

        if isinstance(content, Note) and content.path.startswith("__torch__."):
            content = _module_state(content, _state_names(archive, root))
    return Archive(content, _tensor_resolver(bytes_of))


def read_sequence(path: Path) -> Archive:
    """What `torch.save` wrote before torch 1.6, or a plain pickle."""
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:
        if isinstance(pid, tuple) and len(pid) == 6 and pid[5] is not None:
            raise Refused("it holds views of storages, which torch 0.4 stopped writing")
        storage = _storage(pid)
        known = storages.setdefault(storage.key, storage)
        if known != storage:
            raise Refused(f"it describes storage {storage.key!r} twice, differently")
        return storage

    with path.open("rb") as file:
        first = NotingUnpickler(file).load()
        if first != MAGIC_NUMBER:
            return Archive(first, _tensor_resolver(_no_storage))
        if NotingUnpickler(file).load() != PROTOCOL_VERSION:
            raise Refused("its protocol is unknown")
        system = NotingUnpickler(file).load()
        if not isinstance(system, dict) or not system.get("little_endian", True):
            raise Refused("its numbers are big-endian")
        content = NotingUnpickler(file, persistent).load()
        keys = NotingUnpickler(file).load()
        memory, offset, spans = _map(file), file.tell(), {}
        for key in keys:
            storage = storages[key]
            (count,) = struct.unpack_from("<q", memory, offset)
            length = storage.count * storage.dtype.itemsize
            if count != storage.count or offset + 8 + length > len(memory):
                raise ValueError(f"storage {key!r} is cut off or has another size than stated")
            spans[key] = slice(offset + 8, offset + 8 + length)
            offset += 8 + length
        if offset != len(memory):
            raise ValueError(f"{len(memory) - offset} bytes follow the last tensor")
    # A copy: these blocks are not aligned to their numbers.
    return Archive(content, _tensor_resolver(lambda storage: memoryview(bytearray(memory[spans[storage.key]]))))


def _map(file: Any) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # writable in memory, the file stays as it is


def _record(memory: mmap.mmap, info: zipfile.ZipInfo, path: Path) -> memoryview:
    """The bytes of a record inside the mapped zip, compared with its CRC."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise Refused(f"record {info.filename!r} is packed, which torch never does")
    signature, name_length, extra_length = struct.unpack_from("<4s22xHH", memory, info.header_offset)
    start = info.header_offset + 30 + name_length + extra_length
    if signature != b"PK\x03\x04" or start + info.file_size > len(memory):
        raise ValueError(f"record {info.filename!r} is cut off")
    data = memoryview(memory)[start : start + info.file_size]
    if zlib.crc32(data) != info.CRC:
        raise ValueError(f"record {info.filename!r} does not match its checksum")
    return data


def _storage(pid: Any) -> Storage:
    """From torch's ('storage', type, key, device, count)."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
        raise Refused("it refers to something other than tensors' storages")
    _, kind, key, _, count, *_ = pid
    dtype = STORAGE_TYPES.get(getattr(kind, "path", ""))
    if dtype is None or not isinstance(key, str) or not _is_size(count):
        raise Refused("it describes a malformed storage")
    return Storage(dtype, key, count)


def _no_storage(_: Storage) -> memoryview:
    raise Refused("it refers to data outside of itself")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _tensor_resolver(bytes_of: Callable[[Storage], memoryview]) -> Callable[[Any], Any]:
    """A function that turns the notes of tensors inside a value into tensors."""
    flat: dict[tuple[Storage, torch.dtype], Tensor] = {}

    def numbers(storage: Storage, dtype: torch.dtype) -> Tensor:
        """All numbers of a storage, one tensor for all that share it."""
        if (storage, dtype) not in flat:
            data = bytes_of(storage)
            if len(data) != storage.count * storage.dtype.itemsize or len(data) % dtype.itemsize:
                raise ValueError(f"storage {storage.key!r} has {len(data)} bytes instead of {storage.count} numbers")
            values = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
            # torch aligns its records; another zip tool may not have, and then a copy does.
            flat[storage, dtype] = values.clone() if values.data_ptr() % dtype.itemsize else values
        return flat[storage, dtype]

    def tensor(note: Note, inner: Callable[[Any], Any]) -> Tensor:
        storage, offset, size, stride, *rest = note.args
        size, stride = inner(size), inner(stride)
        sizes_are_good = all(isinstance(x, tuple) and all(map(_is_size, x)) for x in (size, stride))
        if not isinstance(storage, Storage) or not _is_size(offset) or not sizes_are_good or len(size) != len(stride):
            raise Refused("it describes a malformed tensor")
        named = note.path.endswith("_v3")  # types newer than the storages' names stand in the note itself
        dtype = getattr(torch, getattr(rest[2], "path", "").removeprefix("torch."), None) if named else storage.dtype
        if not isinstance(dtype, torch.dtype):
            raise Refused("it describes a tensor of an unknown type")
        values = numbers(storage, dtype)
        last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > max(values.numel(), MAX_EXPANDED):
            raise Refused("it blows up a small storage to a huge tensor")
        if math.prod(size) and offset + last >= values.numel():
            raise ValueError(f"a tensor of shape {list(size)} reaches beyond its storage")
        return values.as_strided(size, stride, offset) if math.prod(size) else values.new_empty(size)

    def parameter(note: Note, inner: Callable[[Any], Any]) -> Any:
        return inner(note.args[0])

    def size(note: Note, inner: Callable[[Any], Any]) -> tuple:
        return tuple(inner(note.args[0]))

    builders = {
        **DATA_BUILDERS,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": tensor,
        "torch._utils._rebuild_parameter": parameter,
        "torch.Size": size,
    }
    return lambda value: resolve(value, builders, strict=False)


def _state_names(archive: zipfile.ZipFile, root: str) -> dict[str, set[str]]:
    """Names of parameters and buffers of each class of a TorchScript archive, read from its source as text."""
    names: dict[str, set[str]] = {}
    for info in archive.infolist():
        if not info.filename.startswith(f"{root}code/") or not info.filename.endswith(".py"):
            continue
        if info.file_size > MAX_CODE:
            raise Refused(f"its source {info.filename!r} is too long")
        module = info.filename.removeprefix(f"{root}code/").removesuffix(".py").replace("/", ".")
        current = ""
        for line in archive.read(info).decode("utf-8").splitlines():
            if declared := re.match(r"class (\w+)\(", line):
                current = f"{module}.{declared[1]}"
                names[current] = set()
            elif listed := re.match(r"  __(?:parameters|buffers)__ = (\[.*\])$", line):
                names[current] |= set(ast.literal_eval(listed[1]))
    return names


def _module_state(module: Note, names: dict[str, set[str]]) -> dict[str, Any]:
    """The state dict (still notes) of a TorchScript module: its and its children's parameters and buffers."""
    state: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(note: Note, prefix: str) -> None:
        if id(note) in seen:
            return
        seen.add(id(note))
        for name, value in (note.state if isinstance(note.state, dict) else {}).items():
            if isinstance(value, Note) and value.path.startswith("__torch__."):
                walk(value, f"{prefix}{name}.")
            elif name in names.get(note.path, ()):
                state[f"{prefix}{name}"] = value

    walk(module, "")
    return state
