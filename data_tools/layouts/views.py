"""Our own data sets: folders of view sets (core.views).

<root>/<name>/transforms.json ...               one view set per object, or <root> itself is one
<root>/<name>/{target,input}/transforms.json    several parts per object
<root>/index.json                               {"objects": [names in order], "splits": {"train": [names], ...}}, if any

Objects may stand below a folder of their split's name, as in a toybox: <root>/train/<name>.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from core.data.conventions import SPLITS
from core.errors import BadData
from core.files import atomic_file
from core.views import TRANSFORMS, ViewSet, write_views
from data_tools.layouts._files import folders, nonempty, read_json, write_json
from data_tools.layouts._shared import Layout, Listing, Sheet, attempt, listing

INDEX = "index.json"


def find(root: Path) -> Listing:
    """The objects of index.json, or those that lie there; below a split's folder their names begin with it."""
    if (root / TRANSFORMS).is_file():
        return Listing(["."])
    if (root / INDEX).is_file():
        return _indexed(root)
    found = folders(root, lambda _: True) if root.is_dir() else []
    splits: dict[str, list[str]] = {}
    names = []
    for name in found:
        if name in SPLITS and not (root / name / TRANSFORMS).is_file():
            splits[name] = [f"{name}/{child}" for child in folders(root / name, _is_object)]
            names += splits[name]
        elif _is_object(root / name):
            names.append(name)
    return Listing(nonempty(names, root, f"<name>/{TRANSFORMS} (for other layouts give layout=)"), splits)


def _indexed(root: Path) -> Listing:
    index = read_json(root / INDEX)
    splits, names = index.get("splits", {}), index.get("objects")
    lists = [*splits.values(), *([] if names is None else [names])] if isinstance(splits, dict) else [None]
    if not all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists):
        raise BadData(f"{INDEX} holds something else than lists of names")
    placed = {
        split: [f"{split}/{name}" if (root / split / name).is_dir() else name for name in listed]
        for split, listed in splits.items()
    }
    found = [listing(each, INDEX) for each in (names or [], *placed.values())]
    faults = [fault for each in found for fault in each.faults]
    order = list(dict.fromkeys(name for each in found for name in each.names))
    return Listing(nonempty(order, root, f"names in {INDEX}"), placed, list(dict.fromkeys(faults)))


def _is_object(folder: Path) -> bool:
    """Whether a folder is an object, though perhaps one that lost its transforms.json."""
    return bool(_parts(folder)) or bool(folders(folder, lambda child: child.name == "images"))


def _parts(folder: Path) -> list[str]:
    """The parts of an object: "" for a view set, or the folders in it that are view sets."""
    if (folder / TRANSFORMS).is_file():
        return [""]
    return folders(folder, lambda child: (child / TRANSFORMS).is_file())


def read(root: Path, name: str) -> dict[str, Sheet]:
    """A sheet per part."""
    folder = root / name
    parts = _parts(folder) if folder.is_dir() else []
    if not parts:
        raise BadData(f"no view set in {name!r} (no {TRANSFORMS})")
    return {part: attempt(partial(_sheet, folder / part), folder) for part in parts}


def _sheet(folder: Path) -> Sheet:
    return Sheet(read_json(folder / TRANSFORMS), folder)


def record(out: Path, name: str) -> Path:
    """The provenance of an object's view set."""
    return out / name / "provenance.json"


def write_set(folder: Path, views: ViewSet, made: dict[str, Any]) -> None:
    """One view set, with what the record says in its provenance."""
    write_views(folder, ViewSet(views.images, views.cameras, views.name, views.caption, made), overwrite=True)


def write(out: Path, name: str, parts: Mapping[str, ViewSet], made: dict[str, Any]) -> None:
    """A view set per part."""
    for part, views in parts.items():
        write_set(out / name / part, views, made)
    if "" not in parts:
        with atomic_file(record(out, name)) as temporary:
            write_json(temporary, made)


def finish(out: Path, listed: Listing) -> None:
    """index.json."""
    with atomic_file(out / INDEX) as temporary:
        splits = {split: list(names) for split, names in listed.splits.items()}
        write_json(temporary, {"objects": list(listed.names), "splits": splits})


LAYOUT = Layout(find=find, read=read, write=write, record=record, finish=finish, parts=None)
