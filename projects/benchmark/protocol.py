"""Protocols: everything that decides a number, in one file with one hash.

The same method scores 3 dB apart in two papers because objects, views, background or metric settings differ. Here they
stand in `conf/protocol/<name>.yaml`, nowhere else, and every result carries the protocol's hash.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import number, whole
from core.errors import BadConfig, BadData
from core.files import natural_key

OBJECT = "{object}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where an object's files lie below a folder; `{object}` stands for its name.

    Args:
        views: a view set, or a folder of numbered pictures.
        mesh: None: there is none.
        depths: numbered 16-bit pictures `<number>-depth.png` of the true depth, as SyncDreamer's renderings have them.
    """

    views: str = OBJECT
    mesh: str | None = None
    depths: str | None = None

    def __post_init__(self) -> None:
        if not re.match(r"[^/{]*\{object\}", self.views):
            raise BadConfig(f"protocol: views={self.views!r} must begin with a folder that has {OBJECT} in its name")

    def path(self, root: Path, kind: str, name: str) -> Path:
        """Where the object's `kind` (views, mesh, depths) is expected."""
        pattern = getattr(self, kind)
        if pattern is None:
            raise BadConfig(f"protocol: a measure needs {kind}, and the layout has none")
        return root / pattern.replace(OBJECT, name)

    def objects(self, root: Path) -> list[str]:
        """Names of all objects with views there, naturally sorted."""
        before, _, after = self.views.split("/")[0].partition(OBJECT)
        found = sorted(root.glob(f"{before}*{after}"), key=natural_key) if root.is_dir() else []
        names = [path.name[len(before) : len(path.name) - len(after)] for path in found if path.is_dir()]
        return [name for name in names if name and self.path(root, "views", name).is_dir()]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How predictions are compared with the truth.

    Args:
        name: of its file.
        what: a sentence: whose numbers these can stand beside.
        images: per column, a function of predicted and true images [V, 3, H, W] in [0, 1] -> one score per view.
        shapes: per column, a function of a predicted and a true `Shape` (`projects.benchmark.solids`) -> a score.
        truth: where the true views and meshes lie below `gt=`.
        prediction: where the predicted ones lie below `pred=`.
        num_objects: how many objects the published set has; a table over another number says so.
        objects: names of the objects; None: all that `gt=` holds.
        views: numbers of the views that count; None: all.
        background: gray value in [0, 1] on which RGBA images are laid.
        size: side in pixels that both must have; None: any, as long as both have the same.
    """

    name: str
    what: str
    images: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    shapes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    truth: Layout = field(default_factory=Layout)
    prediction: Layout = field(default_factory=Layout)
    num_objects: int | None = None
    objects: Sequence[str] | None = None
    views: Sequence[int] | None = None
    background: float = 1.0
    size: int | None = None

    def __post_init__(self) -> None:
        number("protocol.background", self.background, 0, 1)
        for key, chosen in (("objects", self.objects), ("views", self.views)):
            if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
                raise BadConfig(f"protocol.{key}={list(chosen)}: name at least one, each once; null takes all")
        for view in self.views or ():
            whole("protocol.views", view, least=0)
        if self.size is not None:
            whole("protocol.size", self.size)
        if not self.images and not self.shapes:
            raise BadConfig("protocol: neither images nor shapes are measured; name at least one measure")

    def names(self, gt: Path) -> list[str]:
        """The objects to be scored; BadData if the truth lacks one of them, or all."""
        there = self.truth.objects(gt)
        if not there:
            raise BadData(f"gt={gt}: no object there; this protocol expects folders {self.truth.views!r}")
        lacking = sorted(set(self.objects or ()) - set(there))
        if lacking:
            raise BadData(f"gt={gt}: {len(lacking)} objects of the protocol are not there, the first: {lacking[0]!r}")
        return list(self.objects) if self.objects is not None else there
