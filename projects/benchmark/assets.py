"""From view sets to assets on disk: which are to be made, which are done, and what each folder holds."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from core.batch import run_batch
from core.config import instantiate
from core.cpu import cpu_seconds
from core.device import choose_device
from core.errors import BadOutput, BadRequest, BadViewSet
from core.files import atomic_file, natural_key, output_names, sha256_file
from core.fitting.pixels import Pixels
from core.media import write_video
from core.mesh.clean import clean_mesh
from core.mesh.export import write_mesh
from core.mesh.texture import bake_texture
from core.provenance import config_hash, provenance
from core.training.randomness import derive
from core.views import TRANSFORMS, ViewSet, read_views

RECORD = "asset.json"
# What a result depends on; where it goes and where it is computed are left out.
SHAPING = ("method", "preset", "seed", "rig", "rig_options", "mask", "field", "fit", "image", "mesh", "turntable")


@dataclass(frozen=True)
class Item:
    """A view set to reconstruct, and where its results go."""

    views: Path
    folder: Path


def reconstruct_all(cfg: Mapping[str, Any], out: Path) -> None:
    """Reconstruct what `cfg["views"]` names; of several view sets a bad one is recorded and passed over."""
    choose_device(cfg["device"])
    items = find_items(cfg["views"], out, rig=cfg["rig"])

    def work(item: Item) -> dict[str, Any]:
        line = {"folder": os.path.relpath(item.folder, out), **reconstruct(item, cfg)}
        print(f"{line['status']}: {item.views} -> {item.folder}")
        return line

    run_batch(items, work, out=out, name=lambda item: str(item.views))


def find_items(spec: str, out: Path, *, rig: str | None) -> list[Item]:
    """The view sets that `spec` names: one folder, a folder of such folders, or a glob; naturally sorted."""
    literal = Path(spec).expanduser()
    if _is_view_set(literal, rig):
        return [Item(literal, out)]
    found = sorted(literal.iterdir(), key=natural_key) if literal.is_dir() else _glob(literal)
    folders = sorted((path for path in found if _is_view_set(path, rig)), key=natural_key)
    if not folders:
        wanted = f"folder with {TRANSFORMS}" if rig is None else "folder with .png images"
        raise BadViewSet(
            f"views={spec}: no {wanted} there; give a view set, a folder of them or a quoted glob"
            + (", or rig=syncdreamer for plain images" if rig is None else "")
        )
    if len(folders) == 1:
        return [Item(folders[0], out)]
    names = output_names(folders, keep_suffix=True)
    return [Item(folder, out / name) for folder, name in zip(folders, names, strict=True)]


def _glob(pattern: Path) -> list[Path]:
    return [Path(match) for match in glob.glob(str(pattern))]  # noqa: PTH207 (Path.glob takes no absolute patterns)


def _is_view_set(folder: Path, rig: str | None) -> bool:
    if not folder.is_dir():
        return False
    return (folder / TRANSFORMS).is_file() or (rig is not None and any(folder.glob("*.png")))


def reconstruct(item: Item, cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Make one asset; returns its line for results.jsonl."""
    views = object_views(item.views, cfg["rig"], cfg["mask"], cfg["rig_options"])
    key = config_hash({name: cfg[name] for name in SHAPING} | {"views": views_hash(views)})
    done = _finished(item.folder)
    if done is not None:
        if done["key"] == key:
            return {"status": "skipped", **_summary(done)}
        if not cfg["overwrite"]:
            raise BadRequest(
                f"{str(item.folder)!r} holds a result of other settings or views; choose another out= or overwrite=true"
            )
    work = item.folder / f".work-{key[:12]}"  # a killed fit with these settings, if any, left its checkpoints here
    try:
        work.mkdir(parents=True, exist_ok=True)
        record = {"key": key, **make_asset(views, cfg, work)}
        source = {"views": str(item.views), "source": views.provenance}
        record["provenance"] = provenance(dict(cfg), seed=cfg["seed"]) | source
        _publish(work, item.folder, record)
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadOutput(f"cannot write {str(item.folder)!r}: {reason}; free space or choose another out=") from error
    return {"status": "done", **_summary(record)}


def make_asset(views: ViewSet, cfg: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Fit, extract and film into the folder `work`; returns what there is to know about it."""
    device = choose_device(cfg["device"])
    shrunk = shrink(views, cfg["image"]["max_size"])
    offset = cfg["image"]["pixel_offset"]
    pixels = Pixels.from_views(shrunk, offset=offset).to(device)
    seconds: dict[str, float] = {}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(cfg["seed"], "init"))
        field = instantiate(cfg["field"]).to(device)
    clock = cpu_seconds()
    losses = instantiate(cfg["fit"])(field, pixels, seed=cfg["seed"], folder=work, name=f"{cfg['method']} {views.name}")
    seconds["fit"], clock = cpu_seconds() - clock, cpu_seconds()

    eyes = shrunk.cameras.centers
    found = field.surface(cfg["mesh"]["resolution"], eyes=eyes)
    mesh, report = clean_mesh(found, min_component=cfg["mesh"]["min_component"])
    write_mesh(work / "mesh.ply", mesh)
    textured = None
    if cfg["mesh"]["texture_size"]:
        textured = bake_texture(
            mesh,
            size=cfg["mesh"]["texture_size"],
            color_at=lambda points, _: field.surface_color(points.to(device), eyes.to(device)).cpu(),
        )
        write_mesh(work / "mesh.obj", textured)
    write_mesh(work / "mesh.glb", textured or mesh)
    seconds["mesh"], clock = cpu_seconds() - clock, cpu_seconds()

    turntable = instantiate(cfg["turntable"])
    written = write_video(work / "turntable.mp4", turntable(field, mesh, pixel_offset=offset), fps=turntable.fps)
    seconds["turntable"] = cpu_seconds() - clock
    return {
        "method": cfg["method"],
        "views": len(views),
        "image_size": [shrunk.cameras.height, shrunk.cameras.width],
        "losses": losses,
        "mesh": report.to_json(),
        "turntable": {"file": written.name, "through": turntable.through},
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def shrink(views: ViewSet, max_size: int | None) -> ViewSet:
    """The views at most `max_size` pixels wide and high, by area averaging of premultiplied colours; never enlarged."""
    height, width = views.images.shape[-2:]
    longest = max(height, width)
    if max_size is None or longest <= max_size:
        return views
    height, width = (max(1, round(side * max_size / longest)) for side in (height, width))
    alpha = views.images[:, 3:]
    premultiplied = F.interpolate(torch.cat([views.images[:, :3] * alpha, alpha], dim=1), (height, width), mode="area")
    color = premultiplied[:, :3] / premultiplied[:, 3:].clamp(min=1e-6)
    images = torch.cat([color.clamp(0, 1), premultiplied[:, 3:]], dim=1)
    return replace(views, images=images, cameras=views.cameras.scaled(width, height))


def views_hash(views: ViewSet) -> str:
    """sha256 of pixels and cameras, wherever they lie."""
    digest = hashlib.sha256()
    for tensor in (views.images, views.cameras.poses, views.cameras.intrinsics):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def object_views(
    folder: Path, rig: str | None, mask: str | None, rig_options: Mapping[str, Any] | None = None
) -> ViewSet:
    """Views whose alpha marks the object; BadRequest where it marks nothing, or the cameras are given twice."""
    if rig is not None and (folder / TRANSFORMS).is_file():
        raise BadRequest(f"{str(folder)!r} has cameras of its own ({TRANSFORMS}); leave rig={rig} away")
    views = read_views(folder, rig=rig, rig_options=rig_options, mask=mask)
    opaque = (views.images[:, 3].flatten(1).amin(dim=1) == 1).nonzero().flatten().tolist()
    if opaque and mask is None:
        raise BadRequest(
            f"{str(folder)!r}: in {len(opaque)} views, the first {opaque[0]}, alpha is full everywhere and marks no "
            "object; pass mask=auto or white to find it, or none to take all for object"
        )
    return views


def _finished(folder: Path) -> dict[str, Any] | None:
    """The record of a finished result; None when there is none, or its files are gone."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if all((folder / name).exists() for name in record["files"]) else None


def _publish(work: Path, folder: Path, record: dict[str, Any]) -> None:
    """Move the results to their final names, the record last."""
    shutil.rmtree(work / "checkpoints", ignore_errors=True)
    (folder / RECORD).unlink(missing_ok=True)
    record["files"] = {}
    for path in sorted(work.iterdir()):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
        record["files"][path.name] = sha256_file(target) if target.is_file() else None
    with atomic_file(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(work)


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"losses": record["losses"], "mesh": record["mesh"], "cpu_seconds": record["cpu_seconds"]}
