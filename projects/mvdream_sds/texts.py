"""Texts with names, from the places where people keep them."""

from pathlib import Path

from core.errors import BadRequest
from projects.mvdream_sds.request import folder_name, read_lines

CAPTION_FILE = "caption.txt"
TABLES = (".json", ".jsonl", ".csv")


def named_texts(path: Path) -> dict[str, str]:
    """Texts by name, each name fit for a folder.

    Args:
        path: a text file with one in each line, which are named by their words; a table of names and texts
            (`captioned.read_captions`); or a folder of objects, each with a `caption.txt`, as the toybox has.

    Raises BadRequest where there is none, or a name that is none of a folder.
    """
    if path.is_dir():
        found = {file.parent.name: " ".join(read_lines(file)) for file in path.glob(f"*/{CAPTION_FILE}")}
        if not found:
            raise BadRequest(f"prompts={path}: no folder there has a {CAPTION_FILE}")
        return dict(sorted(found.items()))
    if path.suffix in TABLES:
        from projects.mvdream_sds.captioned import read_captions  # brings torch

        found = {name: text.strip() for name, text in read_captions(path).items()}
    else:
        found = {folder_name(text): text for text in read_lines(path)}
    if not found:
        raise BadRequest(f"prompts={path}: holds no text")
    if wrong := next((name for name in found if name != Path(name).name or name in ("", ".", "..")), None):
        raise BadRequest(f"prompts={path}: {wrong!r} cannot be a folder's name; rename it")
    return found
