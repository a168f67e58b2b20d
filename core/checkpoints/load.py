"""Checkpoint files -> state dicts of tensors, safely: nothing in a file is ever run.

Read are safetensors and, through `archives`, the pickles of torch (`.ckpt`, `.pt`, `.pth`, `.bin`: zip, TorchScript,
the older sequence of pickles). Wrappers are undone: Lightning's and other trainers' dictionaries, and the prefixes
`module.`, `_orig_mod.` and `model.`. A pickle is converted once: a safetensors copy beside it (or in the cache folder,
where its own is read-only) remembers the source's sha256, size and time, and is read from then on, memory-mapped.

Numbers keep the type they have in the file; `rename.load_strict` casts them to the model's.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from core.checkpoints.archives import Archive, read_sequence, read_zip
from core.checkpoints.datafiles import read_legacy_pickle
from core.checkpoints.pickles import Note, as_mapping, broken_pickle_as
from core.checkpoints.tensorfiles import read_header, read_tensors, write_tensors
from core.errors import BadCheckpoint, BadOutput, MissingWeights
from core.files import sha256_file

__all__ = ["read_checkpoint", "read_legacy_pickle", "source_sha256"]

log = logging.getLogger(__name__)

# Where trainers put the weights, and an average of them, inside what they save.
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
AVERAGES = ("ema", "ema_state_dict", "model_ema", "params_ema")
PREFIXES = ("module.", "_orig_mod.", "model.")
KEPT_PREFIX = "model.diffusion_model."  # an LDM checkpoint's own name, no wrapper


def read_checkpoint(path: str | Path, *, ema: bool = False) -> dict[str, Tensor]:
    """All weights of a checkpoint file, under the names they have in it.

    Args:
        ema: take the moving average that the file holds beside the weights; without one it is a BadCheckpoint.

    Raises:
        MissingWeights: there is no such file.
        BadCheckpoint: broken, unsafe, not weights, or with NaN or infinity among the numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeights(f"no weights file {path}; put it there or give another path")
    with broken_pickle_as(BadCheckpoint, path):
        kind = _kind(path)
        if kind != "safetensors" and (converted := _read_copy(path, ema)) is not None:
            return converted
        readers: dict[str, Callable[[Path], Archive | dict[str, Tensor]]]
        readers = {"safetensors": read_tensors, "zip": read_zip, "pickle": read_sequence}
        state = _unwrap(readers[kind](path), path, ema)
        _check_finite(state, path)
    if kind != "safetensors":  # what goes wrong from here on is no fault of the file
        _write_copy(path, state, ema)
    return state


def source_sha256(path: str | Path) -> str:
    """sha256 of a file, from its converted copy when that is of this very file, so that large files are hashed once."""
    path = Path(path)
    for copy in (copy for ema in (False, True) for copy in _copies(path, ema)):
        metadata = _metadata(copy)
        if metadata and _is_of(metadata, path):
            return metadata["source_sha256"]
    return sha256_file(path)


def _kind(path: Path) -> str:
    """What a file is, from its first bytes: suffixes lie."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise BadCheckpoint(f"{path}: an empty file; fetch it again")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    if head.startswith(b"version https://git-lfs"):
        raise BadCheckpoint(f"{path}: a Git LFS pointer instead of the weights; run git lfs pull")
    if head.lstrip()[:1] == b"<":
        raise BadCheckpoint(f"{path}: a web page instead of the weights; fetch the file itself")
    if head[257:262] == b"ustar":
        raise BadCheckpoint(f"{path}: torch's tar format of 2017; load it with an old torch and save it again")
    raise BadCheckpoint(f"{path}: neither safetensors nor torch's; fetch the file again or give another path")


def _unwrap(read: Archive | Mapping[str, Tensor], path: Path, ema: bool) -> dict[str, Tensor]:
    """The state dict inside a trainer's wrappers, as named tensors."""
    content = read.content if isinstance(read, Archive) else read
    top = as_mapping(content)
    if top is None:
        raise BadCheckpoint(f"{path}: holds {_describe(content)} instead of named weights; save its state_dict()")
    weights, averaged = top, False
    for _ in range(3):
        found = {name: as_mapping(weights.get(name)) for name in (*WRAPPERS, *AVERAGES)}
        inner = {name: mapping for name, mapping in found.items() if mapping is not None}
        if not inner:
            break
        chosen = next((name for name in (*(AVERAGES if ema else ()), *WRAPPERS) if name in inner), None)
        if chosen is None:
            raise BadCheckpoint(f"{path}: holds averaged weights only ({', '.join(inner)}); set ema=true to use them")
        weights, averaged = inner[chosen], averaged or chosen in AVERAGES
    state = read.tensors(weights) if isinstance(read, Archive) else dict(weights)
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if foreign or not state:
        shown = ", ".join(f"{name}: {_describe(state[name])}" for name in foreign[:5])
        known = ", ".join((*WRAPPERS, *AVERAGES))
        raise BadCheckpoint(
            f"{path}: not named weights ({shown or 'it is empty'}), nor inside a known wrapper ({known})"
        )
    state = _without_prefixes(state)
    if ema and not averaged:
        state = _averaged(state, path)
    types = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    log.info("%s: %s", path, ", ".join(f"{count} tensors of {name}" for name, count in types.items()))
    return state


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo prefixes that wrappers (DDP, torch.compile, a trainer) give to every name."""
    while True:
        common = next((p for p in PREFIXES if all(name.startswith(p) and name != p for name in state)), None)
        if common is None or (common == "model." and any(name.startswith(KEPT_PREFIX) for name in state)):
            return {name.replace("._orig_mod.", "."): tensor for name, tensor in state.items()}  # of compiled parts
        state = {name.removeprefix(common): tensor for name, tensor in state.items()}


def _averaged(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """LDM's moving average, which lies under `model_ema.` with the dots of its names removed."""
    averages = {name.removeprefix("model_ema."): t for name, t in state.items() if name.startswith("model_ema.")}
    if not averages:
        raise BadCheckpoint(f"{path}: holds no averaged weights; set ema=false")
    plain = {name: tensor for name, tensor in state.items() if not name.startswith("model_ema.")}
    for name in plain:
        if name.startswith("model."):
            plain[name] = averages.pop(name.removeprefix("model.").replace(".", ""), plain[name])
    if left := set(averages) - {"decay", "num_updates"}:
        raise BadCheckpoint(f"{path}: {len(left)} averaged weights belong to no weight, such as {min(left)!r}")
    return plain


def _describe(value: Any) -> str:
    path = getattr(value, "path", None)
    return f"an object of {path}" if isinstance(value, Note) else f"a {type(value).__name__}"


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if bad:
        raise BadCheckpoint(f"{path}: NaN or infinity in {len(bad)} tensors ({', '.join(bad[:5])}); fetch it again")


def _is_finite(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.dtype.itemsize == 1 else tensor).isfinite().all())


def _copies(path: Path, ema: bool) -> list[Path]:
    """Where the converted copy may lie: beside the source, or in the cache folder."""
    name = f"{path.name}{'.ema' if ema else ''}.converted.safetensors"
    cache = os.environ.get("TURNTABLE_CACHE") or os.path.expanduser("~/.cache/turntable")  # noqa: PTH111 (never raises)
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return [path.with_name(name), Path(cache, "weights", f"{place}-{name}")]


def _read_copy(path: Path, ema: bool) -> dict[str, Tensor] | None:
    for copy in _copies(path, ema):
        metadata = _metadata(copy)
        if metadata is None:
            continue
        is_fresh = _is_of(metadata, path)
        if not is_fresh and metadata["source_size"] == str(path.stat().st_size):
            is_fresh = metadata["source_sha256"] == sha256_file(path)  # moved or touched, with the same content
        if not is_fresh:
            log.warning("%s is of an older %s; converting again", copy, path.name)
            continue
        try:
            return read_tensors(copy)
        except BadCheckpoint as fault:
            log.warning("%s; converting %s again", fault, path.name)
    return None


def _write_copy(path: Path, state: Mapping[str, Tensor], ema: bool) -> None:
    stat = path.stat()
    metadata = {
        "source": path.name,
        "source_sha256": sha256_file(path),
        "source_size": str(stat.st_size),
        "source_mtime_ns": str(stat.st_mtime_ns),
    }
    for copy in _copies(path, ema):
        try:
            write_tensors(copy, state, metadata)
        except BadOutput as fault:
            log.info("no converted copy there: %s", fault)
        else:
            log.info("%s converted to %s, which is read from now on", path.name, copy)
            return
    log.warning("%s: no room for a converted copy, so it is read through its pickle each time", path.name)


def _metadata(copy: Path) -> dict[str, str] | None:
    """What a converted copy says of its source; None for no copy, or none of ours."""
    try:
        metadata = read_header(copy).get("__metadata__", {}) if copy.is_file() else {}
    except (BadCheckpoint, OSError):
        return None
    return metadata if {"source_sha256", "source_size", "source_mtime_ns"} <= set(metadata) else None


def _is_of(metadata: Mapping[str, str], path: Path) -> bool:
    stat = path.stat()
    return (metadata["source_size"], metadata["source_mtime_ns"]) == (str(stat.st_size), str(stat.st_mtime_ns))
