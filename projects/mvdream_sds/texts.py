"""Texts with names, from the places where people keep them."""

import hashlib
import re
from pathlib import Path
from typing import Any

from core.errors import BadRequest
from projects.mvdream_sds.settings import check_text

CAPTION_FILE = "caption.txt"
TABLES = (".json", ".jsonl", ".csv")
LONGEST_NAME = 60  # characters
MOST_BYTES = 200  # of a given name: file systems have 255, of which what is unfinished takes some


def asked_texts(prompt: Any, prompts: Any) -> dict[str, str | Path]:
    """The text of `prompt=`, or those of `prompts=` (`named_texts`), by name; BadRequest where there is none."""
    if prompt is None:
        return named_texts(Path(str(prompts)))
    text = str(prompt).strip()
    return {folder_name(text): text}


def named_texts(path: Path) -> dict[str, str | Path]:
    """Texts by name, each name fit for a folder; of a folder of objects their files, for `text_of` to read.

    Args:
        path: a text file with one in each line, which are named by their words, and made once where they are there
            twice; a table of names and texts (`captioned.read_captions`); or a folder of objects, each with a
            `caption.txt`, as the toybox has.

    Raises BadRequest where there is none, or a name that is none of a folder.
    """
    if path.is_dir():
        files = {file.parent.name: file for file in sorted(path.glob(f"*/{CAPTION_FILE}"))}
        if not files:
            raise BadRequest(f"prompts={path}: no folder there has a {CAPTION_FILE}")
        return dict(files)
    found: dict[str, str | Path] = {}
    if path.suffix in TABLES:
        from projects.mvdream_sds.captioned import read_captions  # brings torch

        found |= {name: text.strip() for name, text in read_captions(path).items()}
    else:
        found |= {folder_name(text): text for text in _lines(path, f"prompts={path}", "write one in each line")}
    if not found:
        raise BadRequest(f"prompts={path}: holds no text")
    if (wrong := next((name for name in found if not _is_for_a_folder(name)), None)) is not None:
        raise BadRequest(f"prompts={path}: {wrong[:LONGEST_NAME]!a} cannot be a folder's name; rename it")
    return found


def text_of(given: str | Path) -> str:
    """The text itself, or what a file says in all its lines; BadRequest where it is empty or no text."""
    text = " ".join(_lines(given, str(given), "write what the object is")) if isinstance(given, Path) else given
    if not text.strip():
        raise BadRequest("the text is empty; write what the object is")
    check_text("the text", text)
    return text


def folder_name(prompt: str) -> str:
    """A name made of the words; where it does not say all of the text, it ends in a digest of it."""
    name = re.sub(r"\W+", "_", prompt.lower()).strip("_")[:LONGEST_NAME].strip("_")
    if name.replace("_", " ") == prompt and name.isascii():
        return name
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return "_".join([*([name] if name.isascii() and name else []), digest])


def _is_for_a_folder(name: str) -> bool:
    """One place in a path, short enough for every file system, and of characters that a path can have."""
    return (
        name == Path(name).name
        and name not in ("", ".", "..")
        and name.isprintable()
        and len(name.encode()) <= MOST_BYTES
    )


def _lines(path: Path, name: str, advice: str) -> list[str]:
    """The lines of a text file that are not blank; messages call it `name`, and advise so where there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except OSError as error:
        raise BadRequest(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:
        raise BadRequest(f"{name}: is no UTF-8 text ({error}); save it as UTF-8") from error
    if not any(lines):
        raise BadRequest(f"{name}: holds no text; {advice}")
    return [line for line in lines if line]
