"""Turning many pictures, one file each: which, where to, and what is done already.

    <out>/<name>.png         the result; its text chunk `turntable` holds where it comes from, and a key
    <out>/results.jsonl      one line per picture: done, skipped or failed and why

The key is a hash of the settings and of the picture's file, by which a second run knows its results.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from core.batch import run_batch
from core.errors import BadImage, BadRequest
from core.files import IMAGE_SUFFIXES, atomic_file, list_inputs, output_names, sha256_file
from core.images import ImageInfo, read_image_with_info, to_pil
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance

CHUNK = "turntable"  # of PNG text
Turn = Callable[[Float[Tensor, "4 height width"], ImageInfo], tuple[Float[Tensor, "channels h w"], dict[str, Any]]]


@dataclass(frozen=True)
class Item:
    """A picture's file and that of its result."""

    path: Path
    result: Path


def turn_all(
    cfg: Mapping[str, Any], out: Path, turn: Turn, *, program: str, version: int, shaping: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Turn what `cfg["input"]` names; of several pictures a bad one is recorded and passed over.

    Args:
        turn: RGBA and what the file held -> the result, RGB or RGBA, and what the record says about it; `mask` in it,
            how the object was found, is also shown. Raises a UserError for a picture that it cannot turn.
        program: its name.
        version: of what decides a result beside the settings; to be raised with any change to that.
        shaping: the settings that a result depends on.
    """
    paths = [path for path in list_inputs(cfg["input"]) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not paths:
        raise BadImage(f"input {cfg['input']!r} names no image files ({', '.join(IMAGE_SUFFIXES)})")
    items = [Item(path, out / f"{name}.png") for path, name in zip(paths, output_names(paths), strict=True)]
    settings = {key: cfg[key] for key in shaping} | {"program": program, "version": version}
    source = provenance(dict(cfg), seed=cfg["seed"])

    def work(item: Item) -> dict[str, Any]:
        try:
            digest = sha256_file(item.path)
        except OSError as error:
            raise BadImage(f"cannot read {str(item.path)!r}: {error.strerror or error}") from error
        key = config_hash({**settings, "picture": digest})
        if _is_done(item.result, key, cfg["overwrite"]):
            return {"status": "skipped", "image": item.result.name}
        result, record = turn(*read_image_with_info(item.path))
        made = {"program": program, "key": key, "picture": {"file": item.path.name, "sha256": digest}, **record}
        _write(item.result, result, {**source, **made})
        if "mask" in record:
            console.print(f"{item.path}: {record['mask']}", markup=False, highlight=False)
        return {"image": item.result.name, **record}

    with progress_bar() as bar:
        task = bar.add_task(program.rpartition(".")[2], total=len(items))

        def counted(item: Item) -> dict[str, Any]:
            try:
                return work(item)
            finally:
                bar.advance(task)

        return run_batch(
            items,
            counted,
            out=out,
            name=lambda item: str(item.path),
            report=lambda line: console.print(line, markup=False, highlight=False),
        )


def read_note(path: Path) -> dict[str, Any]:
    """What a result says about itself; empty for any other file."""
    try:
        with Image.open(path) as image:
            note = json.loads(image.info.get(CHUNK, "{}"))
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError, SyntaxError):
        return {}


def _is_done(result: Path, key: str, overwrite: bool) -> bool:
    """Whether this very result is there; BadRequest when something else is, and may not be replaced."""
    if not result.exists():
        return False
    found = read_note(result).get("key")
    if found is None:
        raise BadRequest(f"{str(result)!r} is a picture that this program did not make; choose another out=")
    if found != key and not overwrite:
        raise BadRequest(
            f"{str(result)!r} was made with other settings or of another picture; choose another out= or overwrite=true"
        )
    return found == key and not overwrite


def _write(path: Path, image: Float[Tensor, "channels height width"], note: Mapping[str, Any]) -> None:
    """An 8-bit PNG with its note, whole or not at all."""
    text = PngInfo()
    text.add_itxt(CHUNK, json.dumps(note, ensure_ascii=False))
    buffer = io.BytesIO()
    to_pil(image).save(buffer, format="PNG", pnginfo=text)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
