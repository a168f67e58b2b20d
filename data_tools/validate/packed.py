"""What can be wrong with shards and their index (core.data.shards), object by object.

An object's members are laid out in a temporary folder and judged there as a view set of its own folder would be.
"""

import json
import re
from pathlib import Path

from core.data.judging import laid_out
from core.data.names import unsafe
from core.data.shards import Pack, key_of, parse_object
from core.data.table import INDEX
from core.errors import BadData
from data_tools.layouts._shared import Listing, Sheet, images_digest
from data_tools.validate.checks import Expected, Finding, judge_sheets

SHARD = re.compile(r"\d{6,}\.tar")


def is_packed(root: Path) -> bool:
    """Whether a folder was made by data_tools.pack, perhaps one that lost its index."""
    try:
        return "shards" in json.loads((root / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return any(map(SHARD.fullmatch, _names(root)))


def find(pack: Pack) -> Listing:
    """The objects of a pack's index by split, and what is wrong with the index and its shards as such.

    Raises BadData for splits that the index cannot have.
    """
    total, shards = len(pack.table), [shard["file"] for shard in pack.table.index["shards"]]
    where: dict[str, list[str]] = {}
    for number in range(total):
        entry = pack.table[number]
        if entry.shard >= len(shards):
            raise BadData(f"the index of {str(pack.root)!r} names shard {entry.shard} of {len(shards)}; pack it again")
        where.setdefault(entry.name, []).append(shards[entry.shard])
    faults = [
        (name, f"{INDEX} lists it {len(files)} times, in {', '.join(dict.fromkeys(files))}")
        for name, files in where.items()
        if len(files) > 1
    ]
    faults += [(name, f"{INDEX} lists {name!r}, {reason}") for name in where if (reason := unsafe(name)) is not None]
    splits = {}
    for split in pack.table.index["splits"]:
        numbers = pack.of_split(split)
        if not 0 <= numbers.start <= numbers.stop <= total:
            raise BadData(f"the split {split!r} of {str(pack.root)!r} has objects beyond {total}; pack it again")
        splits[split] = [pack.table[number].name for number in numbers]
    return Listing(list(where), splits, [*faults, *_shard_faults(pack)])


def _shard_faults(pack: Pack) -> list[tuple[str, str]]:
    """Shards that hold all objects but have another size than the index says, and shards that it does not know.

    Those that lack some are told by the objects.
    """
    faults = []
    known = {shard["file"]: shard for shard in pack.table.index["shards"]}
    for file, shard in known.items():
        if pack.size_there(file) != shard["size"] and pack.size_there(file) >= shard["content"]:
            sizes = f"{pack.size_there(file):,} bytes, {INDEX} says {shard['size']:,}"
            faults.append((file, f"the shard has {sizes}; copy it again"))
    strays = [name for name in _names(pack.root) if SHARD.fullmatch(name) and name not in known]
    return faults + [(name, f"{INDEX} knows no such shard, but whoever reads *.tar does; remove it") for name in strays]


def check_packed(pack: Pack, number: int, expected: Expected) -> tuple[list[Finding], str]:
    """Everything wrong with one object, and a hash of its images ("" where anything is wrong)."""
    entry = pack.table[number]
    shard = pack.table.index["shards"][entry.shard]["file"]
    there = pack.size_there(shard)
    if there < entry.offset + entry.size:
        cause = f"{shard} is cut after {there:,} bytes" if there else f"{shard} is missing or empty"
        reason = f"lost: {cause}, it ends at byte {entry.offset + entry.size:,}; copy the shard again"
        return [Finding(entry.name, "", None, reason)], ""
    content = pack.bytes_of(entry)
    if not entry.is_of(content):  # what else is wrong follows from that
        reason = f"damaged: its bytes in {shard} have another checksum (crc32) than {INDEX} says; copy or pack it again"
        return [Finding(entry.name, "", None, reason)], ""
    try:
        note, files = parse_object(content)
    except BadData as error:
        return [Finding(entry.name, "", None, f"{error} (in {shard})")], ""
    findings = []
    if note["name"] != entry.name:
        findings.append(Finding(entry.name, "", None, f"it calls itself {note['name']!r}"))
    with laid_out(files) as folder:
        sheets = {part: Sheet(content["transforms"], folder) for part, content in note["parts"].items()}
        place = f"{shard}:{key_of(entry.name)}."
        for found in judge_sheets(entry.name, sheets, expected):
            findings.append(found._replace(reason=found.reason.replace(f"{folder}/", place)))
        digest = "" if findings else " ".join(map(images_digest, sheets.values()))
    return [*findings, *_unnamed(entry.name, sheets, files)], digest


def _unnamed(name: str, sheets: dict[str, Sheet], files: dict[str, bytes]) -> list[Finding]:
    """Members that no view names."""
    frames = [frame for sheet in sheets.values() for frame in sheet.transforms.get("frames") or ()]
    named = {frame.get("file_path") for frame in frames if isinstance(frame, dict)}
    rest = [file for file in files if file not in named]
    return [Finding(name, "", None, f"holds members that no view names: {', '.join(rest)}")] if rest else []


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []
