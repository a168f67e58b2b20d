"""Rendering many objects: which, where to, on how many processes, and what is done already.

    <out>/<name>/            a view set (core.views), with depth/ and normals/ where wanted (data_tools.render.maps);
                             `normalisation` in its transforms.json says how the file's vertices became the world's
    <out>/<name>/<part>/     the same with part=, for objects that have several (the layout `views`)
    <out>/results.jsonl      one line per object, in order: done, skipped or failed and why

A view set is a function of the settings and of the file alone, on however many processes; its provenance holds a hash
of both, by which a second run knows it.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from core.batch import run_batch
from core.config import number, one_of, whole
from core.data.names import unsafe
from core.errors import BadConfig, BadMesh, BadRequest
from core.files import atomic_folder, list_inputs, natural_key, sha256_file
from core.mesh.export import FORMATS
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.views import PROVENANCE, TRANSFORMS, ViewSet, write_views
from data_tools.render.cameras import check_rig, draws_cameras, refuse_cameras_inside, rig_cameras
from data_tools.render.engines import ENGINES, ONE_PROCESS, Rendering, Request, check_engine, engine_settings
from data_tools.render.maps import add_maps
from data_tools.render.surface import normalise, read_surface
from data_tools.render.workers import Workers

# Version of everything beside the settings that decides a view set's content; raise it with any change to that.
VERSION = 1
# What a view set depends on; where it goes, and how many processes make it, are left out.
SHAPING = ("rig", "num_views", "elevation_deg", "distance", "size", "normalise", "up", "missing_textures", "depth",
           "normals", "engine")  # fmt: skip
DEPTH_UNIT = 0.001


@dataclass(frozen=True)
class Item:
    """A mesh file, the object's folder, and which part of the object its view set is (None: all of it)."""

    path: Path
    home: Path
    part: str | None = None

    @property
    def name(self) -> str:
        """The object's."""
        return self.home.name

    @property
    def folder(self) -> Path:
        """The view set's."""
        return self.home / (self.part or "")


def render_all(cfg: Mapping[str, Any], out: Path) -> list[dict[str, Any]]:
    """Render what `cfg["input"]` names; of several objects a bad one is recorded and passed over."""
    check_settings(cfg)
    check_engine(cfg["engine"], engine_settings(cfg))
    items = find_items(cfg["input"], out, cfg["part"])
    source = provenance(dict(cfg), seed=cfg["seed"])
    wanted = cfg["workers"] or (1 if cfg["engine"] in ONE_PROCESS else os.cpu_count() or 1)
    render = partial(render_object, cfg=cfg, source=source)
    with Workers(min(wanted, len(items)), items, render) as workers, progress_bar() as bar:
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
    if cfg["depth_unit"] is not None:
        number("depth_unit", cfg["depth_unit"], 0, above=True)
        if not cfg["depth"]:
            raise BadRequest(f"depth_unit={cfg['depth_unit']}: it is read with depth=true only; leave it out")
    part = cfg["part"]
    if part is not None and (not isinstance(part, str) or unsafe(part) or "/" in part or part.startswith(".")):
        raise BadConfig(f"part={part}: expected the name of a folder, such as target or input")
    if cfg["workers"] is not None:
        whole("workers", cfg["workers"])
        if cfg["engine"] == "nvdiffrast" and cfg["workers"] > 1:
            raise BadRequest(
                f"workers={cfg['workers']}: engine=nvdiffrast draws in one process, on one GPU; leave it out"
            )
    check_rig(cfg)


def shaping(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which a view set depends: a seed that nothing draws from, or a unit of no depths, is none."""
    read = {key: cfg[key] for key in SHAPING} | engine_settings(cfg)
    read |= {"seed": cfg["seed"]} if draws_cameras(cfg["rig"]) else {}
    return read | ({"depth_unit": depth_unit(cfg)} if cfg["depth"] else {})


def depth_unit(cfg: Mapping[str, Any]) -> float:
    """Of one step in a depth map, in world units."""
    return DEPTH_UNIT if cfg["depth_unit"] is None else float(cfg["depth_unit"])


def find_items(spec: str, out: Path, part: str | None = None) -> list[Item]:
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

    return [Item(path, out / name(path), part) for path in sorted(paths, key=natural_key)]


def render_object(item: Item, cfg: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """Render one mesh file; returns its line for results.jsonl."""
    clock = _cpu_seconds()
    try:
        digest = sha256_file(item.path)
    except OSError as error:
        raise BadMesh(f"cannot read {str(item.path)!r}: {error.strerror or error}") from error
    key = config_hash(shaping(cfg) | {"version": VERSION, "mesh": digest, "name": item.name})
    folder = item.folder.relative_to(item.home.parent).as_posix()
    if _is_done(item, key, cfg["overwrite"]):
        return {"status": "skipped", "folder": folder}
    surface = read_surface(item.path, up=cfg["up"])
    if surface.missing_textures and cfg["missing_textures"] == "refuse":
        raise BadMesh(
            f"texture of {item.path.name!r}: {'; '.join(surface.missing_textures)}; missing_textures=ignore draws the "
            "object without it"
        )
    surface, normalisation = normalise(surface, cfg["normalise"])
    cameras = rig_cameras(cfg, item.name)
    refuse_cameras_inside(cameras, surface.mesh, item.path.name, scaled=cfg["normalise"] != "none")
    threads = max(1, (os.cpu_count() or 1) // (cfg["workers"] or 1))
    settings = engine_settings(cfg)
    options = settings.get("blender", settings) | {"threads": threads}
    request = Request(item.path, surface, normalisation, cameras, cfg["depth"], cfg["normals"], options)
    rendering = ENGINES[cfg["engine"]](request)
    record = {
        "folder": folder,
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


def _is_done(item: Item, key: str, overwrite: bool) -> bool:
    """Whether this very view set is there; BadRequest when something else is, and may not be replaced."""
    folder = item.folder
    if item.part is not None and (item.home / TRANSFORMS).is_file():
        raise BadRequest(f"{str(item.home)!r} is a view set itself and has no parts; choose another out=")
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
    name = f"{item.name} {item.part}" if item.part else item.name
    views = ViewSet(rendering.images, request.cameras, name, provenance=made)
    more = {"normalisation": request.normalisation.to_json() | {"up": request.surface.up}}
    with atomic_folder(item.folder, overwrite=cfg["overwrite"]) as temporary:
        write_views(temporary, views)
        add_maps(temporary, rendering, depth_unit=depth_unit(cfg), more=more)
