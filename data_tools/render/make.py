"""Rendering many objects: which, where to, on how many processes, and what is done already.

    <out>/<name>/            a view set (core.views), with depth/ and normals/ where wanted (data_tools.render.maps);
                             `normalisation` in its transforms.json says how the file's vertices became the world's
    <out>/results.jsonl      one line per object, in order: done, skipped or failed and why

A view set is a function of the settings and of the file alone, on however many processes; its provenance holds a hash
of both, by which a second run knows it.
"""

import inspect
import json
import os
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from core.batch import run_batch
from core.cameras.rigs import RIGS
from core.config import check_targets, number, one_of, whole
from core.errors import BadConfig, BadMesh, BadRequest
from core.files import atomic_folder, list_inputs, natural_key, sha256_file
from core.mesh.export import FORMATS
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.training.randomness import derive
from core.types import Cameras
from core.views import PROVENANCE, TRANSFORMS, ViewSet, write_views
from data_tools.render.engines import ENGINES, ONE_PROCESS, Rendering, Request, check_engine, engine_settings
from data_tools.render.maps import add_maps
from data_tools.render.surface import normalise, read_surface

# Version of everything beside the settings that decides a view set's content; raise it with any change to that.
VERSION = 1
# What a view set depends on; where it goes, and how many processes make it, are left out.
SHAPING = ("rig", "num_views", "elevation_deg", "distance", "size", "normalise", "up", "missing_textures", "depth",
           "depth_unit", "normals", "engine", "seed")  # fmt: skip
RIG_KEYS = ("num_views", "elevation_deg", "distance")


@dataclass(frozen=True)
class Item:
    """A mesh file and the folder of its view set."""

    path: Path
    folder: Path


def render_all(cfg: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Render what `cfg["input"]` names; of several objects a bad one is recorded and passed over."""
    check_settings(cfg)
    check_engine(cfg["engine"], engine_settings(cfg))
    items = find_items(cfg["input"], out)
    source = provenance(dict(cfg), seed=cfg["seed"])
    wanted = cfg["workers"] or (1 if cfg["engine"] in ONE_PROCESS else os.cpu_count() or 1)
    with Workers(min(wanted, len(items)), items, cfg, source) as workers, progress_bar() as bar:
        task = bar.add_task("rendering", total=len(items))

        def work(item: Item) -> dict[str, Any]:
            try:
                return workers.result(item)
            finally:
                bar.advance(task)

        return run_batch(
            items,
            work,
            out=out,
            name=lambda item: str(item.path),
            report=lambda line: console.print(line, markup=False, highlight=False),
        )


def check_settings(cfg: Mapping[str, Any]) -> None:
    """Refuse, before any work, what would fail at every object."""
    one_of("rig", cfg["rig"], sorted(RIGS))
    one_of("normalise", cfg["normalise"], ("unit_cube", "unit_sphere", "none"))
    one_of("up", cfg["up"], ("auto", "y", "z"))
    one_of("missing_textures", cfg["missing_textures"], ("refuse", "ignore"))
    one_of("engine", cfg["engine"], tuple(ENGINES))
    settings = engine_settings(cfg)
    if cfg["engine"] == "blender":
        whole("blender.samples", settings["blender"]["samples"])
        one_of("blender.denoise", settings["blender"]["denoise"], (True, False))
    else:
        one_of("shading", settings["shading"], ("smooth", "flat", "none"))
        whole("supersample", settings["supersample"], least=1, most=8)
    whole("size", cfg["size"], least=8, most=2048)
    number("depth_unit", cfg["depth_unit"], 0, above=True)
    if cfg["num_views"] is not None:
        whole("num_views", cfg["num_views"])
    if cfg["workers"] is not None:
        whole("workers", cfg["workers"])
        if cfg["engine"] == "nvdiffrast" and cfg["workers"] > 1:
            raise BadRequest(
                f"workers={cfg['workers']}: engine=nvdiffrast draws in one process, on one GPU; leave it out"
            )
    for key in ("elevation_deg", "distance"):
        for value in cfg[key] if isinstance(cfg[key], list) else [cfg[key]] if cfg[key] is not None else []:
            number(key, value, *((-90, 90) if key == "elevation_deg" else (0, 100)), above=key == "distance")
    rig_cameras(cfg, "any")


def rig_cameras(cfg: Mapping[str, Any], name: str) -> Cameras:
    """The rig's cameras for the object called `name`; a rig that draws its cameras at random draws others for each."""
    function = RIGS[cfg["rig"]]
    given = {"size": cfg["size"]}
    given |= {key: cfg[key] for key in RIG_KEYS if cfg[key] is not None}
    if cfg["rig"] in ("random", "zero123"):
        given["seed"] = derive(cfg["seed"], name)
    known = [key for key in inspect.signature(function).parameters if key in RIG_KEYS]
    for key in RIG_KEYS:
        if key in given and key not in known:
            other = f"it reads {', '.join(known)}" if known else "its cameras are fixed"
            raise BadConfig(f"{key}={cfg[key]}: rig={cfg['rig']} does not read it; {other}")
    check_targets({"_target_": f"{function.__module__}.{function.__qualname__}"} | given)
    for key in {"elevation_deg", "distance"} & given.keys():  # the signatures say float, and pairs of them
        given[key] = tuple(map(float, given[key])) if isinstance(given[key], list) else float(given[key])
    return function(**given)


def find_items(spec: str, out: Path) -> list[Item]:
    """The mesh files that `spec` names, each with a folder of its own: named as the file where that is clear."""
    paths = list_inputs(spec, FORMATS, what="mesh", fault=BadMesh)
    if len(paths) > 1:  # a glob also finds what lies beside meshes
        paths = [path for path in paths if path.suffix.lower() in FORMATS]
    if not paths:
        raise BadMesh(f"input {spec!r} names no {', '.join(FORMATS)} files")
    counts = Counter(path.stem.casefold() for path in paths)
    root = os.path.commonpath([path.resolve().parent for path in paths])

    def name(path: Path) -> str:
        if counts[path.stem.casefold()] == 1:
            return path.stem
        return "_".join(path.resolve().relative_to(root).parts)

    return [Item(path, out / name(path)) for path in sorted(paths, key=natural_key)]


def render_object(item: Item, cfg: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Render one mesh file; returns its line for results.jsonl."""
    clock = _cpu_seconds()
    try:
        digest = sha256_file(item.path)
    except OSError as error:
        raise BadMesh(f"cannot read {str(item.path)!r}: {error.strerror or error}") from error
    settings = engine_settings(cfg)
    shaping = {key: cfg[key] for key in SHAPING} | settings
    key = config_hash(shaping | {"version": VERSION, "mesh": digest, "name": item.folder.name})
    if _is_done(item.folder, key, cfg["overwrite"]):
        return {"status": "skipped", "folder": item.folder.name}
    surface = read_surface(item.path, up=cfg["up"])
    if surface.missing_textures and cfg["missing_textures"] == "refuse":
        raise BadMesh(
            f"texture of {item.path.name!r}: {'; '.join(surface.missing_textures)}; missing_textures=ignore draws the "
            "object without it"
        )
    surface, normalisation = normalise(surface, cfg["normalise"])
    cameras = rig_cameras(cfg, item.folder.name)
    threads = max(1, (os.cpu_count() or 1) // (cfg["workers"] or 1))
    options = settings.get("blender", settings) | {"threads": threads}
    request = Request(item.path, surface, normalisation, cameras, cfg["depth"], cfg["normals"], options)
    rendering = ENGINES[cfg["engine"]](request)
    record = {
        "folder": item.folder.name,
        "views": len(cameras),
        "faces": len(surface.mesh.faces),
        "degenerate_faces": surface.degenerate_faces,
        "missing_textures": list(surface.missing_textures),
        "cut_off": views_cut_off(rendering, request),
    }
    made = {"program": "data_tools.render", "key": key, "mesh": {"file": item.path.name, "sha256": digest}}
    made |= {"up": surface.up, "normalisation": normalisation.to_json(), **record}
    made |= {"rendered_by": rendering.made_by} if rendering.made_by else {}
    _write(item, cfg, request, rendering, dict(source) | made)
    return record | {"cpu_seconds": round(_cpu_seconds() - clock, 2)}


def _cpu_seconds() -> float:
    """Of this process and of those that it started, such as Blender's."""
    return sum(os.times()[:4])


def views_cut_off(rendering: Rendering, request: Request) -> list[int]:
    """The views whose edge the object touches; BadMesh, with the likely cause, when no view sees anything."""
    alpha = rendering.images[:, 3]
    if not (alpha > 0).any():
        raise BadMesh(f"no view sees {request.path.name!r}: {_why_unseen(request)}")
    edges = torch.cat([alpha[:, [0, -1]].flatten(1), alpha[:, :, [0, -1]].flatten(1)], dim=1)
    return (edges > 0).any(1).nonzero()[:, 0].tolist()


def _why_unseen(request: Request) -> str:
    """Beside all pictures, or before the cameras but too thin for any pixel; and what to do about it."""
    cameras, vertices = request.cameras, request.surface.mesh.vertices

    def is_before(view: int) -> bool:
        project = cameras.intrinsics[view] @ cameras.world_to_camera[view, :3]
        x, y, depth = (F.pad(vertices, (0, 1), value=1.0) @ project.T).unbind(-1)
        within = (x > 0) & (y > 0) & (x < cameras.width * depth) & (y < cameras.height * depth)
        return bool((within & (depth > 0)).any())

    if not any(map(is_before, range(len(cameras)))):
        hint = "" if request.normalisation.kind != "none" else "; normalise=unit_cube brings it there"
        return f"it is not before the cameras{hint}"
    sides = " x ".join(f"{side:.3g}" for side in (vertices.amax(0) - vertices.amin(0)).tolist())
    return (
        f"it is before the cameras but covers no pixel (it is {sides} in world units: flat and seen edge-on, or too "
        "thin); choose another rig= or elevation_deg=, or a larger size="
    )


def _is_done(folder: Path, key: str, overwrite: bool) -> bool:
    """Whether this very view set is there; BadRequest when something else is, and may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / TRANSFORMS).is_file():
        raise BadRequest(f"{str(folder)!r} holds other things than a view set; choose another out=")
    if overwrite:
        return False
    try:
        found = json.loads((folder / PROVENANCE).read_text(encoding="utf-8")).get("key")
    except (OSError, ValueError, AttributeError):
        found = None
    if found != key:
        raise BadRequest(
            f"{str(folder)!r} holds views of other settings or of another mesh; choose another out= or overwrite=true"
        )
    return True


def _write(item: Item, cfg: Mapping[str, Any], request: Request, rendering: Rendering, made: dict[str, Any]) -> None:
    """The view set's folder, whole or not at all."""
    views = ViewSet(rendering.images, request.cameras, item.folder.name, provenance=made)
    more = {"normalisation": request.normalisation.to_json() | {"up": request.surface.up}}
    with atomic_folder(item.folder, overwrite=cfg["overwrite"]) as temporary:
        write_views(temporary, views)
        add_maps(temporary, rendering, depth_unit=cfg["depth_unit"], more=more)


class Workers:
    """Renders items on processes ahead of being asked; results come in whatever order they are asked for.

    With one process everything happens in this one. A process that dies (out of memory, as a rule) takes its neighbours
    along: its item is tried once more, alone, fails if it dies again, and the rest goes on with new processes.
    """

    def __init__(
        self, processes: int, items: Sequence[Item], cfg: Mapping[str, Any], source: Mapping[str, Any]
    ) -> None:
        self.processes, self.items, self.cfg, self.source = processes, list(items), cfg, source
        self.pool: ProcessPoolExecutor | None = None
        self.jobs: dict[Item, Future] = {}

    def __enter__(self) -> "Workers":
        if self.processes > 1:
            self._start(self.items)
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def result(self, item: Item) -> dict[str, Any]:
        """The item's record, or what went wrong with it."""
        if self.pool is None:
            return render_object(item, self.cfg, self.source)
        try:
            return self.jobs[item].result()
        except BrokenProcessPool:
            self.pool.shutdown()
        try:
            with ProcessPoolExecutor(1, initializer=_start_worker) as alone:
                return alone.submit(render_object, item, self.cfg, self.source).result()
        except BrokenProcessPool as error:
            raise BadMesh(f"rendering {item.path.name!r} ended its process; out of memory?") from error
        finally:
            self._start(self.items[self.items.index(item) + 1 :])

    def _start(self, items: Sequence[Item]) -> None:
        self.pool = ProcessPoolExecutor(self.processes, initializer=_start_worker)
        self.jobs = {item: self.pool.submit(render_object, item, self.cfg, self.source) for item in items}


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which lets running objects finish
