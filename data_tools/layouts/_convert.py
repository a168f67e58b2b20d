"""From one layout to another, object by object: what `import_official` and `export_official` do.

An object is done when its record holds the key of this conversion: a hash of the settings and of the files read.
Another key is refused, or with overwrite=true replaced.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.batch import append_result, run_batch
from core.errors import BadConfig, BadData, BadOutput, BadRequest, BadViewSet, UserError
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.views import PROVENANCE, TRANSFORMS, ViewSet
from data_tools.layouts import OURS, load
from data_tools.layouts._archives import unpacked
from data_tools.layouts._shared import Layout, Listing, Sheet, digest, judge, turned

VERSION = 2  # of what decides a result beside the settings and the files; raise it with any change to that


def import_all(cfg: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Every object of `cfg["source"]` as view sets in `out`."""
    official = load(cfg["layout"])
    _check_up(cfg, official)
    return convert(cfg, official, load(OURS), out, lambda views: turned(views, cfg["up"]))


def export_all(cfg: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Every object of the view sets in `cfg["source"]`, in an official layout in `out`."""
    official = load(cfg["layout"])
    _check_up(cfg, official)
    return convert(cfg, load(OURS), official, out, lambda views: turned(views, cfg["up"], back=True))


def _check_up(cfg: Mapping[str, Any], official: Layout) -> None:
    if cfg["up"] != "z" and not official.world_is_free:
        raise BadConfig(f"up={cfg['up']}: layout={cfg['layout']} has z up, as its official code does; leave up=z")


def convert(
    cfg: Mapping[str, Any], reader: Layout, writer: Layout, out: Path, turn: Callable[[ViewSet], ViewSet]
) -> list[dict[str, Any]]:
    """Read each object by one layout and write it by the other; the lists name the objects that are there at the end.

    Raises a UserError after the last object if any could not be converted.
    """
    given = Path(cfg["source"])
    if out.resolve() == given.resolve():
        raise BadOutput(f"out={str(out)!r} is the source itself; choose another out=")
    with unpacked(given, out, reader.find) as source:
        return _convert(cfg, reader, writer, source, out, turn)


def _convert(
    cfg: Mapping[str, Any], reader: Layout, writer: Layout, source: Path, out: Path, turn: Callable[[ViewSet], ViewSet]
) -> list[dict[str, Any]]:
    listed = reader.find(source)
    for name, reason in listed.faults:
        console.print(f"{name}: left out: {reason}", markup=False, highlight=False)
        append_result(out, {"input": name, "status": "failed", "kind": "BadData", "error": reason})
    origin = provenance(dict(cfg), seed=cfg["seed"])
    done: list[str] = []

    def finish() -> None:
        if done:
            made = Listing(done) if "." in listed.names else listed.only(done)
            writer.finish(out, _joined(_others(writer, out, {*done, *listed.names}), made))

    def work(name: str) -> dict[str, Any]:
        final = source.resolve().name if name == "." else name
        sheets = _chosen(reader.read(source, name), cfg.get("part"), writer)
        settings = {key: cfg.get(key) for key in ("layout", "up", "mask", "part")}
        content = {part: digest(sheet) for part, sheet in sheets.items()}
        key = config_hash({"version": VERSION, "name": final, "content": content, **settings})
        if _is_done(writer.record(out, final), final, key, cfg["overwrite"]):
            done.append(final)
            return {"status": "skipped", "object": final}
        views = {part: turn(_judged(sheet, part, cfg.get("mask"))) for part, sheet in sheets.items()}
        writer.write(out, final, views, origin | {"key": key})
        done.append(final)
        return {"object": final, "views": {part or "all": len(each) for part, each in views.items()}}

    with progress_bar() as bar:
        task = bar.add_task("converting", total=len(listed.names))

        def counted(name: str) -> dict[str, Any]:
            try:
                return work(name)
            finally:
                bar.advance(task)

        try:
            records = run_batch(listed.names, counted, out=out, report=_say)
        except BadOutput:
            raise
        except UserError:
            finish()
            raise
    finish()
    if listed.faults:
        raise BadData(f"{len(listed.faults)} entries of the lists were left out, the first: {listed.faults[0][1]}")
    return records


def _others(writer: Layout, out: Path, ours: set[str]) -> Listing:
    """What earlier runs made in `out` of other objects."""
    try:
        found = writer.find(out)
    except UserError:  # there are none yet
        return Listing([])
    return found.only(name for name in found.names if name not in ours and writer.record(out, name).is_file())


def _joined(first: Listing, second: Listing) -> Listing:
    splits = {split: [*first.splits.get(split, ()), *second.splits.get(split, ())]
              for split in {**first.splits, **second.splits}}  # fmt: skip
    return Listing([*first.names, *second.names], splits)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False)


def _chosen(sheets: dict[str, Sheet], part: str | None, writer: Layout) -> dict[str, Sheet]:
    """The parts that the writer takes; one part alone becomes the whole object."""
    if part is not None:
        if part not in sheets:
            raise BadRequest(f"part={part}: the object has {', '.join(filter(None, sheets)) or 'no parts'}")
        sheets = {"": sheets[part]}
    if writer.parts is not None and set(writer.parts) != set(sheets):
        has = ", ".join(filter(None, sheets))
        if writer.parts == ("",):
            raise BadRequest(f"the object has the parts {has}; this layout holds one, choose it by part=")
        raise BadRequest(
            f"this layout holds the parts {', '.join(writer.parts)}; the object has {has or 'none'}; "
            "give view sets of them all, each in a folder of the object's (data_tools.render part=)"
        )
    return sheets


def _judged(sheet: Sheet, part: str, mask: str | None) -> ViewSet:
    views, faults = judge(sheet, mask)
    if views is None or faults:
        more = f" (and {len(faults) - 1} more faults; data_tools.validate lists all)" if len(faults) > 1 else ""
        raise BadViewSet(f"{part + ', ' if part else ''}{faults[0]}{more}")
    return views


def _is_done(record: Path, name: str, key: str, overwrite: bool) -> bool:
    """Whether this very conversion is there already; BadRequest when something else is, and may not be replaced."""
    folder = record.parent
    if not record.is_file():
        if record.name == PROVENANCE and folder.exists() and not _is_begun(folder):
            raise BadRequest(f"{str(folder)!r} holds other things than this program makes; choose another out=")
        return False
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == {}:  # begun, and stopped
        return False
    if (isinstance(found, dict) and found.get("key") == key) or overwrite:
        return not overwrite
    raise BadRequest(
        f"{name!r} is there already, made with other settings or from other files; choose another out=, or "
        "overwrite=true"
    )


def _is_begun(folder: Path) -> bool:
    """Whether a folder is empty, or holds nothing but view sets: the parts of an object that a stopped run left."""
    return folder.is_dir() and all((child / TRANSFORMS).is_file() for child in folder.iterdir())
