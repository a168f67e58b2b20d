"""What `validate` goes through: objects in folders of some layout, or in shards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from core.checkpoints.datafiles import read_names
from core.data.names import unsafe
from core.data.reports import LOOKED_AT, file_stamp, spread, stamp
from core.data.shards import Pack
from core.errors import BadConfig, BadData
from data_tools.layouts import OURS, load
from data_tools.layouts._shared import Listing, listing
from data_tools.validate.checks import Expected, Finding, check_object
from data_tools.validate.packed import check_packed, find


@dataclass(frozen=True)
class Source:
    """A data set, however it is kept.

    Args:
        listed: its objects' names and lists.
        items: of each object, in order, what `check` wants (a name, or a number), and its name.
        check: everything wrong with one of them, and a hash of its images.
        facts: what the report tells training beside what is broken, of which it is a function.
    """

    layout: str
    listed: Listing
    items: Sequence[tuple[Any, str]]
    check: Callable[[Any], tuple[list[Finding], str]]
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]


def folders(cfg: Mapping[str, Any], root: Path) -> Source:
    """Objects in folders."""
    layout = load(cfg["layout"])
    listed = _chosen(layout.find(root), cfg["uids"])

    def facts(broken: Mapping[str, Any]) -> dict[str, Any]:
        if layout.places is None or not Path(cfg["root"]).is_dir():
            return {}
        evenly = (listed.names[index] for index in spread(len(listed.names)))
        remembered = [name for name in dict.fromkeys([*list(broken)[:LOOKED_AT], *evenly]) if unsafe(name) is None]
        return {"stamps": {name: stamp(layout.places(root, name)) for name in remembered}}

    expected = Expected(cfg["layout"], cfg["mask"], cfg["size"], cfg["num_views"])
    items = [(name, name) for name in listed.names]
    return Source(cfg["layout"], listed, items, partial(check_object, root, expected=expected), facts)


def packed(cfg: Mapping[str, Any], root: Path) -> Source:
    """Objects in shards; BadConfig where another layout was asked for."""
    if cfg["layout"] != OURS:
        raise BadConfig(f"layout={cfg['layout']}: {str(root)!r} is a pack, which holds view sets; leave layout= out")
    pack = Pack(root)
    listed = _chosen(find(pack), cfg["uids"])
    wanted = set(listed.names)
    items = [(number, name) for number in range(len(pack.table)) if (name := pack.table[number].name) in wanted]
    lacking = wanted.difference(name for _, name in items)
    faults = [*listed.faults, *((name, "the pack does not hold it") for name in listed.names if name in lacking)]
    shards = [shard["file"] for shard in pack.table.index["shards"]]

    def facts(broken: Mapping[str, Any]) -> dict[str, Any]:
        remembered = {shards[pack.table[number].shard] for number, name in items if name in broken}
        stamps = {file: file_stamp(root / file) for file in sorted(remembered)}
        return {"pack_sha256": pack.table.fingerprint(), "pack_objects": len(items), "stamps": stamps}

    expected = Expected(OURS, cfg["mask"], cfg["size"], cfg["num_views"])
    check = partial(check_packed, pack, expected=expected)
    return Source("packed", replace(listed, faults=faults), items, check, facts)


def _chosen(listed: Listing, uids: str | None) -> Listing:
    """Only the objects of another list, if there is one; one that the data set lacks is broken when it is looked at."""
    if uids is None:
        return listed
    names = read_names(Path(uids))
    if not names:
        raise BadData(f"{uids!r} lists no objects")
    return listing(names, Path(uids).name, listed.only(names).splits)
