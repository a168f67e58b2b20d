"""Toybox objects in the layout of SyncDreamer's training data.

<folder>/target/<uid>/{000..015}.png     the fixed views, RGBA
<folder>/input/<uid>/{000..015}.png      the same azimuths, random elevations
<folder>/input/<uid>/meta.pkl            [K, azimuths, elevations, distances, poses], world-to-camera 3 x 4
<folder>/uid_set.pkl                     a list of uids
"""

import json
import pickle
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from core.data.toybox import read_index
from core.errors import BadOutput
from core.files import atomic_file
from core.views import read_views
from data_tools.layouts.syncdreamer import meta


def write_official(root: Path, folder: Path, split: str, uids: Sequence[str], *, size: int) -> Iterator[str]:
    """Convert objects of a toybox folder, resized to `size`; yields each uid as it is done. Finished ones are kept.

    BadOutput where objects of another toybox or of another size are.
    """
    claim(folder, {"toybox": read_index(root)["sha256"], "image_size": size}, option="official")
    for uid in uids:
        for part in ("input", "target"):
            final = folder / part / uid
            if not final.exists():
                temporary = final.with_name(f".{uid}.part")
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                _write_views(root / split / uid / part, temporary, size, with_meta=part == "input")
                temporary.replace(final)
        yield uid
    with atomic_file(folder / "uid_set.pkl") as temporary:
        temporary.write_bytes(pickle.dumps(list(uids)))


def claim(folder: Path, made_from: dict[str, Any], *, option: str) -> None:
    """Note what a new folder is made from, or refuse one that was made from something else.

    Args:
        option: the setting that names the folder, for the message of BadOutput.
    """
    path = folder / "made_from.json"
    if not folder.exists() or not any(folder.iterdir()):
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(made_from) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadOutput(f"{str(folder)!r} does not say what it was made from; choose another {option}=") from error
    if found != made_from:
        raise BadOutput(f"{str(folder)!r} was made from {found}, not from {made_from}; choose another {option}=")


def _write_views(source: Path, folder: Path, size: int, *, with_meta: bool) -> None:
    cameras = read_views(source).cameras.scaled(size, size)
    for index in range(len(cameras)):
        with Image.open(source / "images" / f"{index:03d}.png") as image:
            image.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")
    if with_meta:
        (folder / "meta.pkl").write_bytes(pickle.dumps(meta(cameras)))
