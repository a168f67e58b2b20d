"""What `python -m projects.mvdream_sds.export` does: a scene's surface, its colours, the files, how good they are."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.batch import finished
from core.config import instantiate
from core.device import choose_device
from core.files import atomic_folder
from core.images import contact_sheet, write_image
from core.memory import out_of_memory_as_request
from core.mesh.clean import MeshReport
from core.mesh.export import read_textured, write_mesh
from core.mesh.gltf_rules import check_glb
from core.mesh.texture import TexturedMesh, bake_texture
from core.progress import console
from core.provenance import config_hash, provenance
from core.render.raster import vertex_normals
from core.render.textured import render_textured
from core.types import Cameras, Mesh
from projects.mvdream_sds.export import formats_of
from projects.mvdream_sds.scene.fidelity import compare, side_by_side
from projects.mvdream_sds.scene.loading import Loaded
from projects.mvdream_sds.scene.painting import PAINTERS, Painter
from projects.mvdream_sds.scene.scene import Scene
from projects.mvdream_sds.scene.source import load_source
from projects.mvdream_sds.scene.threshold import NUM_VIEWS, seen_threshold
from projects.mvdream_sds.scene.views import see

say = partial(console.print, markup=False, highlight=False)
FOLDER, MARK, NAME, SHEET = "mesh", "result.json", "mesh", "field_and_mesh.png"
# What decides the mesh; where it goes and where it is computed do not. The scene counts by its content.
SHAPING = (
    "threshold", "isosurface", "colors", "texture_size", "texture_padding",
    "num_views", "size", "elevation", "distance", "fov",
)  # fmt: skip
MANY_FACES = 50_000
HINT = "set isosurface.resolution or texture_size lower, or device=cpu"


def export(cfg: DictConfig) -> dict[str, Any]:
    """The program behind `python -m projects.mvdream_sds.export`; returns what result.json says."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    formats, device = formats_of(config["format"]), choose_device(config["device"])
    loaded = load_source(config)
    folder = Path(config["out"]) / FOLDER
    key = config_hash({name: config[name] for name in SHAPING} | loaded.identity | {"format": sorted(formats)})
    done = None if config["overwrite"] else finished(folder, key, mark=MARK, parts=lambda record: record["files"])
    if done is not None:
        say(f"{folder}: done before, skipped")
        return done
    scene = loaded.scene.to(device)
    with out_of_memory_as_request(HINT):
        isosurface = instantiate(config["isosurface"])(threshold=threshold_of(config["threshold"], loaded))
        mesh, report, threshold = isosurface(scene.geometry.density, scene.geometry.radius, device=device)
        if report.num_faces > MANY_FACES:
            say(f"unwrapping {report.num_faces} faces, minutes if they are rough; fewer by isosurface.resolution lower")
        mesh, textured = painted(
            scene, mesh, PAINTERS[config["colors"]], size=config["texture_size"], padding=config["texture_padding"]
        )
        record: dict[str, Any] = {"key": key, "prompt": loaded.prompt, "step": loaded.step, "scene": str(loaded.file)}
        with atomic_folder(folder, overwrite=config["overwrite"], mark=MARK) as temporary:
            write_files(temporary, formats, mesh, textured)
            record |= {"threshold": threshold, "mesh": report.to_json(), "fidelity": None}
            if config["num_views"]:
                cameras = loaded.orbit_as(config, config["num_views"], config["size"]).views().cameras
                record["fidelity"] = measured(temporary, scene, textured, cameras, loaded.step)
            record["files"] = sorted(path.name for path in temporary.iterdir())
            record["provenance"] = provenance(config, weights=[loaded.file])
            (temporary / MARK).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"{folder}: {', '.join(record['files'])}")
    say(summary(report, record["fidelity"]))
    return record


def threshold_of(given: str | float, loaded: Loaded) -> float | str:
    """`seen` as a number; others as they are."""
    if given != "seen":
        return given if given == "auto" else float(given)
    cameras = loaded.orbit_as(dict.fromkeys(("elevation", "distance", "fov")), NUM_VIEWS, None).views().cameras
    found = seen_threshold(loaded.scene, cameras, step=loaded.step)
    say(f"threshold=seen: {found:g}")
    return found


def painted(scene: Scene, mesh: Mesh, paint: Painter, *, size: int, padding: int) -> tuple[Mesh, TexturedMesh]:
    """The mesh with the field's base colours at its vertices, and with a texture of them."""
    colored = replace(mesh, colors=paint(scene, mesh.vertices, vertex_normals(mesh)))
    return colored, bake_texture(colored, size=size, color_at=partial(paint, scene), padding=padding)


def write_files(folder: Path, formats: list[str], mesh: Mesh, textured: TexturedMesh) -> None:
    """The mesh in each format; a .glb that broke glTF's rules would be refused here."""
    for suffix in formats:
        path = folder / f"{NAME}.{suffix}"
        write_mesh(path, mesh if suffix == "ply" else textured)
        if suffix == "glb":
            check_glb(path)


def measured(folder: Path, scene: Scene, textured: TexturedMesh, cameras: Cameras, step: int) -> dict[str, Any]:
    """How the mesh compares with its field from all sides; leaves their pictures, the field's in the first row.

    What is looked at is the file, where there is a .glb, read back by another program's reader.
    """
    glb = folder / f"{NAME}.glb"
    seen = read_textured(glb) if glb.is_file() else textured
    of_mesh, of_field = render_textured(seen, cameras), see(scene, cameras, step=step).rgba
    write_image(folder / SHEET, contact_sheet(side_by_side(of_mesh, of_field), len(cameras)))
    return compare(of_mesh, of_field).to_json() | {"views": len(cameras), "size": cameras.width}


def summary(report: MeshReport, fidelity: dict[str, Any] | None) -> str:
    """A line about the result."""
    closed = "watertight" if report.watertight else "not watertight"
    handles = f", {report.genus} handles" if report.watertight and report.genus > 0 else ""
    line = f"{report.num_faces} faces, {closed}{handles}, {report.removed_components} smaller pieces removed"
    if fidelity is None:
        return line
    return (
        f"{line}; from {fidelity['views']} sides PSNR {fidelity['psnr']:.2f} dB against the field (worst "
        f"{fidelity['worst_psnr']:.2f}), silhouettes overlap {fidelity['silhouettes']:.3f}"
    )
