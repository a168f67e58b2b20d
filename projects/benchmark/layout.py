"""Where an object's files lie below a folder, as a protocol says."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from core.errors import BadConfig, BadData, BadViewSet
from core.files import natural_key

OBJECT, VIEW, INPUT = "{object}", "{view}", "{input}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where an object's files lie below a folder; `{object}` stands for its name.

    Args:
        views: a view set, or a folder of numbered pictures.
        files: name of such a picture; `{view}` stands for its number (with any zeros), `{input}` for the number of the
            view that the method was given.
        rig: cameras of a folder of pictures (`core.cameras.rigs`); a view set has its own.
        mesh: None: there is none.
        depths: numbered 16-bit pictures `<number>-depth.png` of the true depth, as SyncDreamer's renderings have them.
        captions: a text file of the object's caption; None: what its view set says.
        angles: ViewFusion's file of the views' azimuth, polar angle and distance.
    """

    views: str = OBJECT
    files: str = "{view}.png"
    rig: str | None = None
    mesh: str | None = None
    depths: str | None = None
    captions: str | None = None
    angles: str | None = None

    def __post_init__(self) -> None:
        if not re.match(r"([^{]*/)?[^/{]*\{object\}", self.views):
            raise BadConfig(f"protocol: views={self.views!r} must have {OBJECT} in the name of a folder")
        if self.files.count(VIEW) != 1 or "/" in self.files:
            raise BadConfig(f"protocol: files={self.files!r} must be a file name with one {VIEW}")

    def path(self, root: Path, kind: str, name: str) -> Path:
        """Where the object's `kind` (views, mesh, depths, captions, angles) is expected."""
        pattern = getattr(self, kind)
        if pattern is None:
            raise BadConfig(f"protocol: a measure needs {kind}, and the layout has none")
        return root / pattern.replace(OBJECT, name)

    def objects(self, root: Path) -> list[str]:
        """Names of all objects with views there, naturally sorted."""
        head, _, rest = self.views.partition(OBJECT)
        folder, before = root / head.rpartition("/")[0], head.rpartition("/")[2]
        after = rest.split("/")[0]
        found = sorted(folder.glob(f"{before}*{after}"), key=natural_key) if folder.is_dir() else []
        names = [path.name[len(before) : len(path.name) - len(after)] for path in found if path.is_dir()]
        return [name for name in names if name and self.path(root, "views", name).is_dir()]

    def pictures(self, folder: Path, input_view: int | None) -> dict[int, Path]:
        """The numbered pictures of a folder, by number; BadViewSet where two have the same or there is none."""
        if INPUT in self.files and input_view is None:
            raise BadConfig(f"protocol: files={self.files!r} needs input_view or input_views")
        pattern = re.escape(self.files).replace(re.escape(VIEW), r"0*(\d+)")
        pattern = pattern.replace(re.escape(INPUT), rf"0*{input_view}")
        found: dict[int, Path] = {}
        for path in sorted(folder.iterdir(), key=natural_key) if folder.is_dir() else []:
            if match := re.fullmatch(pattern, path.name):
                if int(match[1]) in found:
                    raise BadViewSet(f"{str(folder)!r}: {path.name} and {found[int(match[1])].name} have one number")
                found[int(match[1])] = path
        return dict(sorted(found.items()))


def input_views(path: Path) -> dict[str, int]:
    """Which view of each object a method is given: {object: number} as JSON; BadData for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{str(path)!r}: no list of input views as JSON ({error}); the protocol needs it") from error
    if not isinstance(found, dict) or not all(type(view) is int and view >= 0 for view in found.values()) or not found:
        raise BadData(f"{str(path)!r}: expected an object's name and the number of its input view, for each object")
    return found


def azimuth(path: Path, view: int) -> float:
    """A view's azimuth in radians from ViewFusion's `angles.json`: {"0": {"angle": [azimuth, polar, distance]}}."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))[str(view)]["angle"][0])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadData(f"{str(path)!r}: no azimuth of view {view} ({type(error).__name__}: {error})") from error
