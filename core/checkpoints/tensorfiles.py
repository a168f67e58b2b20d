"""Safetensors files: memory-mapped after their header is checked, and written with a digest of their content."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import BadCheckpoint, BadOutput
from core.files import atomic_file

CONTENT = "content_sha256"  # metadata key: digest of all names, types, shapes and numbers
MAX_HEADER = 100 * 2**20  # bytes, as the format's own library allows


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, after checks of its length and of the spans it gives to tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise BadCheckpoint(
                f"{path}: truncated, or not safetensors: a header of {length} in {size} bytes; fetch it again"
            )
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
        spans = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise BadCheckpoint(f"{path}: broken safetensors header ({cause}); fetch the file again") from cause
    end = 0
    for begin, stop in spans:
        if begin != end or stop < begin:
            raise BadCheckpoint(f"{path}: tensors overlap or leave gaps at byte {begin}; fetch the file again")
        end = stop
    if end != size - 8 - length:
        found = size - 8 - length
        raise BadCheckpoint(
            f"{path}: truncated: {found} bytes of numbers, not the header's {end}; fetch the file again"
        )
    return header


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors; nothing for any other file."""
    try:
        return read_header(path).get("__metadata__") or {}
    except BadCheckpoint:
        return {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped. Damage that can be seen is a BadCheckpoint.

    A flipped bit among the numbers shows only in files that carry a digest, as `write_tensors` makes them.
    """
    metadata = read_header(path).get("__metadata__") or {}
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, OSError, RuntimeError) as cause:
        raise BadCheckpoint(f"{path}: broken safetensors ({cause}); fetch the file again") from cause
    if CONTENT in metadata and metadata[CONTENT] != content_digest(state):
        raise BadCheckpoint(f"{path}: damaged: its numbers do not match its digest; fetch or make the file again")
    return state


def write_tensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all, with a digest that `read_tensors` verifies.

    The same tensors and metadata make the same bytes. Raises BadOutput where they cannot be written.
    """
    taken: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        # The format has no tied tensors: each gets its own copy.
        separate[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in taken else tensor
        taken.add(separate[name].untyped_storage().data_ptr())
    metadata = {"format": "pt", **(metadata or {}), CONTENT: content_digest(separate)}
    with atomic_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; the library would keep the file to its owner
        try:
            save_file(separate, temporary, metadata=metadata)
        except SafetensorError as error:  # it reports a full disk as an error of its own kind
            raise BadOutput(f"cannot write {str(path)!r}: {error}; free space or choose another output") from error
        temporary.chmod(mode)
        _sort_metadata(temporary)


def content_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over every tensor's name, type, shape and numbers, whatever their order in a file."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sort_metadata(path: Path) -> None:
    """The library's order of the metadata changes from call to call, and the file's sha256 would with it."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length, f"a header of {len(text)} bytes instead of {length}"
        file.seek(8)
        file.write(text)


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)
