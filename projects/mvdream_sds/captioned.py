"""Images with captions, without cameras: the "2D data" of the joint training, and the pictures of DreamBooth.

A folder holds images and their captions as `<image>.txt` beside each, or as a table for all.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from core.config import whole
from core.errors import BadConfig, BadData
from core.files import list_inputs
from core.images import composite, read_image, resized_pixels

CAPTION_KEYS = ("caption", "text", "TEXT")  # in a json, and names of a table's columns
NAME_KEYS = ("file_name", "uid", "name")


class CaptionedFolder:
    """Images of a folder.

    Args:
        root: the folder.
        image_size: side of the square that is read: of the image's middle, on white.
        captions: a table (`read_captions`) by file name; None: `<image>.txt` beside each image.
        caption: one for all images, in place of theirs.
    """

    def __init__(self, *, root: str, image_size: int, captions: str | None = None, caption: str | None = None) -> None:
        whole("image_size", image_size)
        if captions is not None and caption is not None:
            raise BadConfig(f"captions={captions}, caption={caption}: give one of them; the other would not be read")
        self.paths = list_inputs(root, fault=BadData)
        self.image_size = image_size
        table = read_captions(captions) if captions is not None else None
        self.captions = [_caption(path, table, captions) if caption is None else caption for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, generator: torch.Generator) -> dict[str, Any]:
        """`pixels` [3, H, W] in [-1, 1] and `caption`. BadImage for a file that is no image."""
        return {
            "pixels": square_pixels(read_image(self.paths[index]), self.image_size),
            "caption": self.captions[index],
        }


def square_pixels(rgba: Float[Tensor, "4 height width"], size: int) -> Float[Tensor, "3 size size"]:
    """The middle square of a picture on white, resized (Pillow's bicubic), in [-1, 1]."""
    height, width = rgba.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized_pixels(composite(rgba[:, top : top + side, left : left + side]), size)


def read_captions(path: str | Path) -> dict[str, str]:
    """Captions by name: a `.json` object, a `.jsonl` or a `.csv` with columns such as `file_name` and `text`.

    A `.csv` of two columns without those names in its first line has name and caption in each line, as Cap3D's.
    Raises BadData.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            found = dict(json.loads(text))
        elif path.suffix == ".jsonl":
            found = dict(_named(json.loads(line)) for line in text.splitlines() if line.strip())
        else:
            found = dict(_table_rows(list(csv.reader(io.StringIO(text, newline="")))))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadData(
            f"captions={path} cannot be read ({type(error).__name__}: {error}); wanted is a .json, .jsonl or .csv of "
            "names and captions"
        ) from error
    return {str(name): str(caption) for name, caption in found.items()}


def _table_rows(rows: list[list[str]]) -> Iterator[tuple[str, str]]:
    if rows and set(rows[0]) & set(NAME_KEYS) and set(rows[0]) & set(CAPTION_KEYS):
        yield from (_named(dict(zip(rows[0], row, strict=True))) for row in rows[1:])
        return
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ValueError(f"line {number} has {len(row)} columns instead of name and caption")
        yield row[0], row[1]


def _named(entry: Mapping[str, Any]) -> tuple[str, str]:
    name, caption = (next((entry[key] for key in keys if key in entry), None) for keys in (NAME_KEYS, CAPTION_KEYS))
    if name is None or caption is None:
        raise ValueError(f"{dict(entry)} has no name ({', '.join(NAME_KEYS)}) or no text ({', '.join(CAPTION_KEYS)})")
    return str(name), str(caption)


def _caption(path: Path, table: Mapping[str, str] | None, given: str | None) -> str:
    if table is not None:
        for name in (path.name, path.stem):
            if name in table:
                return table[name]
        raise BadData(f"captions={given} has none of {path.name}; add it, or remove the image")
    beside = path.with_suffix(".txt")
    try:
        return beside.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadData(f"{path} has no caption: {beside.name} is missing or no text; or give captions=TABLE") from error
