"""Protocols: everything that decides a number, in one file with one hash.

The same method scores 3 dB apart in two papers because objects, views, background or metric settings differ. Here they
stand in `conf/protocol/<name>.yaml`, nowhere else, and every result carries the protocol's hash. What an upstream's
code and paper leave open is said in the file, beside the value that we chose.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from core.config import number, whole
from core.errors import BadConfig, BadData
from core.provenance import config_hash
from projects.benchmark.layout import Layout, input_views

__all__ = ["Layout", "Protocol", "protocol_hash", "with_defaults"]

Measures = Mapping[str, Callable[..., Any]]
VIEW_KINDS = ("images", "masks", "sets", "alone", "texts")  # kinds of measures of views, in their columns' order
WORDS = ("what", "name", "folder")  # about a protocol, and where networks lie; they decide no number
LATER = ("sets",)  # kinds of measures that are younger than published tables: without any, a hash is the old one
# Settings, and the kinds of measures or other settings that read them: without one, only the default is accepted.
READ_BY = {
    "background": ("images", "masks", "sets", "alone", "texts"),
    "compositing": ("images", "masks", "sets", "alone", "texts"),
    "mask": ("masks", "sets", "alone", "alignment", "crop"),
    "size": ("images", "masks", "sets", "alone", "texts"),
    "resize": ("images", "masks", "sets", "alone", "texts"),
    "views": ("images", "masks", "alone", "texts"),
    "score_input": ("images", "masks", "texts"),
    "match": ("images", "masks", "sets", "alone", "texts"),
    "azimuths_deg": ("images", "masks", "sets", "alone", "texts"),
    "match_within_deg": ("images", "masks", "sets", "alone", "texts"),
    "alignment": ("images", "masks"),
    "crop": ("images", "masks"),
    "box": ("shapes",),
    "turn": ("shapes",),
    "icp_within": ("shapes",),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How predictions are compared with the truth.

    Args:
        name: of its file.
        what: a sentence: whose numbers these can stand beside.
        images: per column, a function of predicted and true images [V, 3, H, W] in [0, 1] -> a score per view, or one.
        masks: per column, the same of masks [V, H, W].
        sets: per column, a function of the predicted views and of all true ones (two `Pictures`; their cameras tell
            which belong together) -> one score per view or pair, or one.
        alone: per column, a function of the predicted views alone (a `Pictures`) -> one score per view or pair, or one.
        texts: per column, a function of predicted images, their object's number and all objects' captions.
        shapes: per column, a function of a predicted and a true `Shape` (`projects.benchmark.solids`) -> a score.
        truth: where the true views and meshes lie below `gt=`.
        prediction: where the predicted ones lie below `pred=`.
        num_objects: how many objects the published set has; a table over another number says so.
        objects: names of the objects; None: all that `input_views` names, or else all that `gt=` holds.
        input_view: number of the view that a method is given, the same for all objects.
        input_views: a JSON file below `gt=`, object -> number of the view that a method is given.
        score_input: whether the input view is scored as well.
        views: numbers of the true views that count; None: all.
        match: which predicted view belongs to a true one: that of the same `number`; the one at its place in the
            `order` of the scored views; or with `camera` the one that stands in the same direction from the origin.
        azimuths_deg: with match=camera, which predicted views are scored, whatever their number and elevation; what is
            judged `alone` are these, too.
        match_within_deg: how far apart directions may be.
        background: gray value in [0, 1] on which RGBA images are laid.
        compositing: `over` lays a picture on the background by its alpha; `cut` puts background where alpha is 0, and
            leaves all other pixels as they are.
        mask: how the object is found in pictures that have no transparent pixel (`core.foreground`).
        size: side in pixels at which images are compared; None: any, as long as both have the same.
        resize: how pictures of another size are brought to `size`: `area` (averages; smaller ones are refused) or
            `bilinear` (Pillow's, on 8 bits); None: they are refused.
        alignment: `zoom` enlarges all predicted views of an object about their middle by one factor, the median over
            views of the true silhouette's extent over the predicted one's: one image does not tell an object's scale.
        crop: side of a square window around the true silhouettes of an object, in extents of the largest of them;
            None: whole pictures.
        box: both meshes are centred by their bounding boxes, whose longest sides become this; None: as they lie.
        turn: `input_azimuth` turns the predicted mesh by the input view's azimuth (`truth.angles`), for methods whose
            world is relative to the input.
        icp_within: the predicted mesh is moved (not scaled) onto the true one by point-to-point ICP over pairs at most
            this far apart; None: it is not.
    """

    name: str
    what: str
    images: Measures = field(default_factory=dict)
    masks: Measures = field(default_factory=dict)
    sets: Measures = field(default_factory=dict)
    alone: Measures = field(default_factory=dict)
    texts: Measures = field(default_factory=dict)
    shapes: Measures = field(default_factory=dict)
    truth: Layout = field(default_factory=Layout)
    prediction: Layout = field(default_factory=Layout)
    num_objects: int | None = None
    objects: Sequence[str] | None = None
    input_view: int | None = None
    input_views: str | None = None
    score_input: bool = True
    views: Sequence[int] | None = None
    match: Literal["number", "order", "camera"] = "number"
    azimuths_deg: Sequence[float] | None = None
    match_within_deg: float = 1.0
    background: float = 1.0
    compositing: Literal["over", "cut"] = "over"
    mask: Literal["white", "flood", "none"] = "white"
    size: int | None = None
    resize: Literal["area", "bilinear"] | None = None
    alignment: Literal["none", "zoom"] = "none"
    crop: float | None = None
    box: float | None = None
    turn: Literal["none", "input_azimuth"] = "none"
    icp_within: float | None = None

    def __post_init__(self) -> None:
        number("protocol.background", self.background, 0, 1)
        number("protocol.match_within_deg", self.match_within_deg, 0, 180)
        for key in ("crop", "box", "icp_within"):
            if getattr(self, key) is not None:
                number(f"protocol.{key}", getattr(self, key), 0, above=True)
        for key, chosen in (("objects", self.objects), ("views", self.views), ("azimuths_deg", self.azimuths_deg)):
            if chosen is not None and (not chosen or len(set(chosen)) < len(chosen)):
                raise BadConfig(f"protocol.{key}={list(chosen)}: name at least one, each once; null takes all")
        for view in (*(self.views or ()), *([] if self.input_view is None else [self.input_view])):
            whole("protocol.views", view, least=0)
        for key in ("size", "num_objects"):
            if getattr(self, key) is not None:
                whole(f"protocol.{key}", getattr(self, key))
        self._refuse_what_nothing_reads()

    def _refuse_what_nothing_reads(self) -> None:
        kinds = [kind for kind in (*VIEW_KINDS, "shapes") if getattr(self, kind)]
        if not kinds:
            raise BadConfig("protocol: neither images nor shapes are measured; name at least one measure")
        kinds += [key for key in ("alignment", "crop") if getattr(self, key) not in (None, "none")]
        for item in fields(self):
            readers = READ_BY.get(item.name)
            value = getattr(self, item.name)
            if readers and value != item.default and not set(readers) & set(kinds):
                raise BadConfig(f"protocol.{item.name}={value}: nothing reads it without {' or '.join(readers)}")
        if self.resize is not None and self.size is None:
            raise BadConfig(f"protocol.resize={self.resize} needs protocol.size")
        if self.input_view is not None and self.input_views is not None:
            raise BadConfig("protocol: input_view and input_views exclude each other")
        if not self.score_input and self.input_view is None and self.input_views is None:
            raise BadConfig("protocol.score_input=false needs input_view or input_views, or it leaves nothing out")
        by_camera = self.match == "camera"
        if by_camera != bool(self.azimuths_deg) or (by_camera and (self.views is not None or not self.score_input)):
            raise BadConfig("protocol: match=camera and azimuths_deg need each other, without views or inputs")
        if not by_camera and self.match_within_deg != 1.0:
            raise BadConfig("protocol.match_within_deg is read with match=camera only")
        if self.turn == "input_azimuth" and (self.truth.angles is None or self.input_views is None):
            raise BadConfig("protocol.turn=input_azimuth needs truth.angles and input_views")

    @property
    def compares_views(self) -> bool:
        """Whether predicted views are compared with true ones."""
        return bool(self.images or self.masks)

    @property
    def reads_views(self) -> bool:
        """Whether predicted views are read at all."""
        return any(getattr(self, kind) for kind in VIEW_KINDS)

    @property
    def columns(self) -> list[str]:
        return [column for kind in (*VIEW_KINDS, "shapes") for column in getattr(self, kind)]

    def kinds(self) -> list[str]:
        """What an object's prediction must have."""
        return (["views"] if self.reads_views else []) + (["mesh"] if self.shapes else [])

    def names(self, gt: Path) -> list[str]:
        """The objects to be scored; BadData if the truth lacks one of them, or all."""
        there = self.truth.objects(gt)
        if not there:
            raise BadData(f"gt={gt}: no object there; this protocol expects folders {self.truth.views!r}")
        wanted = self.objects
        if wanted is None and self.input_views is not None:
            wanted = list(self.inputs(gt))
        lacking = sorted(set(wanted or ()) - set(there))
        if lacking:
            raise BadData(f"gt={gt}: {len(lacking)} objects of the protocol are not there, the first: {lacking[0]!r}")
        return list(wanted) if wanted is not None else there

    def inputs(self, gt: Path) -> dict[str, int]:
        """The input view of each object, where the protocol names a file of them."""
        return {} if self.input_views is None else input_views(gt / self.input_views)

    def input_of(self, name: str, gt: Path) -> int | None:
        """The number of the view that a method was given of an object; None where the protocol does not say."""
        if self.input_views is None:
            return self.input_view
        inputs = self.inputs(gt)
        if name not in inputs:
            raise BadData(f"{str(gt / self.input_views)!r} names no input view of {name!r}")
        return inputs[name]


def protocol_hash(settings: Mapping[str, Any]) -> str:
    """Of all settings, defaults included, but what decides no number."""
    complete = with_defaults(settings)
    return config_hash(_without_words({key: value for key, value in complete.items() if key not in LATER or value}))


def _without_words(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_words(value) for key, value in node.items() if key not in WORDS}
    return node


def with_defaults(node: Any) -> Any:
    """A config node with the defaults of its `_target_`s written out: a number depends on them all the same."""
    if isinstance(node, Mapping):
        filled = {key: with_defaults(value) for key, value in node.items()}
        return _defaults(str(node["_target_"])) | filled if "_target_" in node else filled
    return [with_defaults(item) for item in node] if isinstance(node, list | tuple) else node


def _defaults(target: str) -> dict[str, Any]:
    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name)
    given = {key: value.default for key, value in inspect.signature(found).parameters.items()}
    if isinstance(found, type) and hasattr(found, "__dataclass_fields__"):  # signatures hide what a factory makes
        made = {f.name: f.default_factory() for f in fields(found) if f.default_factory is not MISSING}
        given |= {key: _plain(value) for key, value in made.items()}
    return {key: value for key, value in given.items() if isinstance(value, (*_SCALARS, dict, list, tuple))}


_SCALARS = (bool, int, float, str, type(None))


def _plain(value: Any) -> Any:
    return {f.name: getattr(value, f.name) for f in fields(value)} if isinstance(value, Layout) else value
