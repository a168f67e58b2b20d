"""Registries: which files a data set consists of, where they lie, and how each is known to be right.

    name: chairs
    licence: CC-BY-4.0                      # of every item that states none of its own
    items:
      - url: https://example.org/chairs/oak.zip
        path: oak.zip                       # below out=, and below a mirror; by default the last part of the URL
        sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
        size: 4096                          # bytes

As YAML or JSON. `sha256` and `size` may be null where nobody has measured them yet; `data_tools.make_registry` measures
a folder of files and writes this.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from core.config import suggestion
from core.data.names import unsafe
from core.errors import BadData

KEYS = ("name", "licence", "items")
ITEM_KEYS = ("url", "path", "sha256", "size", "licence")


@dataclass(frozen=True)
class Item:
    """One file.

    Args:
        path: below the output folder, with `/`.
        sha256: hexadecimal; None: nobody has measured it.
        size: in bytes; None as well.
    """

    url: str
    path: str
    sha256: str | None
    size: int | None
    licence: str


def read_registry(path: str | Path) -> list[Item]:
    """The items of a registry file; BadData names the first that is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise BadData(
            f"no registry at {str(path)!r} ({error.strerror or error}); give a .yaml or .json file"
        ) from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise BadData(
            f"registry {str(path)!r} is no {path.suffix.lstrip('.') or 'YAML'} ({error}); repair it"
        ) from error
    where = f"registry {str(path)!r}"
    _check_keys(content, KEYS, where)
    rows = content.get("items")
    if not isinstance(rows, list) or not rows:
        raise BadData(f"{where}: `items` lists no files; see data_tools/download/registry.py for the form")
    items = [_item(row, content.get("licence"), f"{where}: item {number}") for number, row in enumerate(rows)]
    taken: dict[str, int] = {}
    for number, item in enumerate(items):
        if (other := taken.setdefault(item.path.casefold(), number)) != number:
            raise BadData(f"{where}: items {other} and {number} have the path {item.path!r}; give each its own")
    return items


def _item(row: Any, licence: Any, where: str) -> Item:
    _check_keys(row, ITEM_KEYS, where)
    url = row.get("url")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise BadData(f"{where}: url {url!r} is no http or https address")
    path = row.get("path", unquote(PurePosixPath(urlsplit(url).path).name))
    if not isinstance(path, str) or (reason := unsafe(path)) is not None or path.endswith("/"):
        raise BadData(
            f"{where}: path {path!r}, {reason if isinstance(path, str) and reason else 'which is no file name'}"
        )
    sha256, size, licence = row.get("sha256"), row.get("size"), row.get("licence", licence)
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256)):
        raise BadData(f"{where}: sha256 {sha256!r} is not 64 hexadecimal digits (null: not known)")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise BadData(f"{where}: size {size!r} is no number of bytes (null: not known)")
    if not isinstance(licence, str) or not licence.strip():
        raise BadData(f"{where}: no licence; state it, for the item or for the whole registry")
    return Item(url, path, sha256.lower() if sha256 else None, size, licence)


def _check_keys(content: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        raise BadData(f"{where} holds {type(content).__name__} instead of keys and values")
    for key in content:
        if key not in known:
            raise BadData(f"{where}: unknown key {key!r}; {suggestion(str(key), known)}")
