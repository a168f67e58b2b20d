"""Files of official layouts: finding objects, reading lists, arrays and JSON (one line for each fault), writing."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadData, BadImage
from core.files import natural_key
from core.images import encode_png, read_image_with_info
from core.views import ViewSet

MOST_VIEWS = 100_000  # beyond, a numeric file name is a date or an id


def folders(root: Path, holds: Callable[[Path], bool]) -> list[str]:
    """Names of the folders directly below `root` of which `holds` is true, naturally sorted, without hidden ones."""
    try:
        with os.scandir(root) as entries:
            found = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise BadData(f"cannot list {str(root)!r}: {error.strerror or error}; check the path") from error
    return [name for name in sorted(found, key=natural_key) if holds(root / name)]


def numbered(folder: Path, *suffixes: str) -> list[str]:
    """Stems `000`, `001`, ... up to the last number that a file with any of the suffixes has, whether there or not."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  only names are needed
    except OSError as error:
        raise BadData(f"cannot list {str(folder)!r}: {error.strerror or error}") from error
    stems = [Path(name).stem for name in names if name.endswith(suffixes)]
    found = {int(stem): stem for stem in stems if re.fullmatch(r"[0-9]{1,9}", stem)}
    if not found:
        return []
    last, width = max(found), len(found[min(found)])
    if last >= MOST_VIEWS:
        raise BadData(f"{folder.name!r} holds a view numbered {found[last]}; views are numbered from {0:0{width}d} on")
    return [found.get(number, f"{number:0{width}d}") for number in range(last + 1)]


def nonempty(names: list[str], root: Path, wanted: str) -> list[str]:
    """`names`, or a BadData that says what `root` should hold."""
    if not root.is_dir():
        raise BadData(f"no folder {str(root)!r}; check the path")
    if not names:
        raise BadData(f"{str(root)!r} holds no objects; this layout wants {wanted}")
    return names


def read_json(path: Path, kind: type = dict) -> Any:
    """A JSON file's content, of the given type; BadData in one line otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path.name} is unreadable ({type(error).__name__}: {error})") from error
    if not isinstance(content, kind):
        raise BadData(f"{path.name} holds a {type(content).__name__} instead of a {kind.__name__}")
    return content


def read_matrix(path: Path, shape: tuple[int, ...], hint: str = "") -> np.ndarray:
    """The array of an `.npy` file as float64, of that shape; pickled ones are refused.

    Args:
        hint: what else it may be, for the message about another shape.
    """
    try:
        matrix = np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
    except FileNotFoundError as error:
        raise BadData(f"{path.name} is missing") from error
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise BadData(f"{path.name} is no array of numbers ({type(error).__name__})") from error
    if matrix.shape != shape:
        found, wanted = ("x".join(map(str, each)) for each in (matrix.shape, shape))
        raise BadData(f"{path.name} is {found} instead of {wanted}{f'; {hint}' if hint else ''}")
    return matrix


def first_size(paths: Iterable[Path]) -> tuple[int, int]:
    """Width and height of the first image that can be read; BadImage of the first one where none can."""
    faults = []
    for path in paths:
        try:
            info = read_image_with_info(path)[1]
            return info.width, info.height
        except BadImage as error:
            faults.append(error)
    raise faults[0] if faults else BadImage("there are no images")


def write_pngs(folder: Path, views: ViewSet, pattern: str = "{:03d}.png") -> None:
    """Every view as an RGBA PNG."""
    for index, image in enumerate(views.images):
        (folder / pattern.format(index)).write_bytes(encode_png(image))


def write_text(path: Path, text: str) -> None:
    path.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))
