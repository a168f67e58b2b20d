"""What is wrong in a text file of the .obj format, told by its line: trimesh's reader stops with numpy's words."""

from collections.abc import Iterator
from pathlib import Path

LONGEST = 60  # letters of a line that a message repeats


def obj_fault(path: Path) -> str | None:
    """The first line that no .obj may have, and what is wrong with it; None where there is none.

    A vertex wants three numbers, a face at least three corners, each the number of a vertex (from 1, or from the last
    one backwards by negative numbers).
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    num_vertices = sum(line.split(maxsplit=1)[:1] == ["v"] for line in lines)
    return next((fault for fault in _faults(lines, num_vertices)), None)


def _faults(lines: list[str], num_vertices: int) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        kind, *values = line.partition("#")[0].split() or [""]
        reason = None
        if kind == "v" and (len(values) < 3 or not all(map(_is_number, values))):
            reason = "a vertex wants three numbers"
        elif kind == "f":
            reason = _face_fault(values, num_vertices)
        if reason is not None:
            shown = line.strip() if len(line) <= LONGEST else f"{line.strip()[:LONGEST]}..."
            yield f"line {number}, {shown!r}: {reason}"


def _face_fault(corners: list[str], num_vertices: int) -> str | None:
    if len(corners) < 3:
        return "a face wants at least three corners"
    for corner in corners:
        try:
            vertex = int(corner.partition("/")[0])
        except ValueError:
            return f"{corner!r} is no corner of a face"
        if vertex == 0 or abs(vertex) > num_vertices:
            return f"there is no vertex {vertex}, only {num_vertices}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
