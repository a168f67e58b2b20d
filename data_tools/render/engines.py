"""What draws: one function per engine, all from the same request to the same rendering.

cpu         core's rasteriser: unlit or simply lit base colours, in plain torch, anywhere
nvdiffrast  the same drawing, on a CUDA GPU by nvdiffrast's rasteriser (core.render.cuda_raster)
blender     Blender's Cycles on the CPU with the materials of the file (data_tools.render.blender)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor

from core.cameras.poses import to_opengl
from core.cameras.rays import pixel_rays
from core.errors import BadRequest
from core.render.raster import RasterOutput, face_normals, irradiance, rasterize
from core.types import Cameras, Mesh
from data_tools.render.surface import Normalisation, Surface

Shading = Literal["smooth", "flat", "none"]
Rasterizer = Callable[[Mesh, Cameras], RasterOutput]
# Views are drawn as many at a time as keep faces and samples below these, which bounds the memory.
FACES_AT_ONCE, SAMPLES_AT_ONCE = 2_000_000, 4_000_000
# Where a vertex normal leans farther from its face's, there is an edge: a box that shares its corners is no ball.
CREASE = math.cos(math.radians(40.0))


@dataclass(frozen=True)
class Request:
    """One object to draw.

    Args:
        surface: normalised.
        path, normalisation: for engines that read the file themselves.
        options: the engine's own settings.
    """

    path: Path
    surface: Surface
    normalisation: Normalisation
    cameras: Cameras
    depth: bool
    normals: bool
    options: dict[str, Any]


@dataclass(frozen=True)
class Rendering:
    """Views of an object.

    depth: along the optical axis, at pixel centres; 0 where nothing is seen. normals: unit vectors in OpenGL camera
    axes (x right, y up, z towards the camera), at pixel centres, on the side that is seen; 0 where nothing is seen.
    """

    images: Float[Tensor, "num_views 4 height width"]
    depth: Float[Tensor, "num_views height width"] | None = None
    normals: Float[Tensor, "num_views 3 height width"] | None = None
    made_by: str = ""  # a program beside ours, with its version


def render_cpu(request: Request) -> Rendering:
    """By core's rasteriser, in plain torch."""
    return draw(request, rasterize)


def draw(request: Request, rasterizer: Rasterizer, device: str | torch.device = "cpu") -> Rendering:
    """By rasterisation; colours are sampled at every one of `supersample`^2 samples per pixel and averaged."""
    surface, cameras = request.surface.to(device), request.cameras.to(device)
    supersample, shading = request.options["supersample"], request.options["shading"]
    samples = cameras.width * cameras.height * supersample**2
    at_once = max(1, min(FACES_AT_ONCE // len(surface.mesh.faces), SAMPLES_AT_ONCE // samples))
    images, depth, normals = [], [], []
    for start in range(0, len(cameras), at_once):
        part = cameras[slice(start, start + at_once)]
        images.append(_draw(surface, part, rasterizer, supersample, shading).cpu())
        if request.depth or request.normals:
            seen = rasterizer(surface.mesh, part)
            depth.append(torch.where(seen.mask, seen.depth, 0.0).cpu())
            normals.append(_camera_normals(surface, part, seen, shading).cpu())
    return Rendering(
        torch.cat(images),
        torch.cat(depth) if request.depth else None,
        torch.cat(normals) if request.normals else None,
    )


def _draw(surface: Surface, cameras: Cameras, rasterizer: Rasterizer, supersample: int, shading: Shading) -> Tensor:
    """RGBA images [v, 4, h, w] with straight alpha."""
    fine = cameras.scaled(cameras.width * supersample, cameras.height * supersample)
    seen = rasterizer(surface.mesh, fine)
    colors = surface_colors(surface, seen)
    if shading != "none":
        colors = colors * irradiance(_seen_normals(surface, fine, seen, shading))
    premultiplied = colors.new_zeros(*seen.mask.shape, 4)
    premultiplied[seen.mask] = torch.cat([colors.clamp(0, 1), torch.ones_like(colors[:, :1])], dim=-1)
    premultiplied = reduce(premultiplied, "v (h i) (w j) c -> v c h w", "mean", i=supersample, j=supersample)
    alpha = premultiplied[:, 3:]  # an edge pixel keeps the object's colour
    return torch.cat([premultiplied[:, :3] / alpha.clamp(min=1e-6), alpha], dim=1)


def surface_colors(surface: Surface, seen: RasterOutput) -> Float[Tensor, "num_seen 3"]:
    """Unlit sRGB colours of what the pixels of `seen.mask` see, in that order."""
    mesh, face, weights = surface.mesh, seen.face_index[seen.mask], seen.barycentrics[seen.mask][..., None]
    corners = mesh.faces[face]
    assert mesh.colors is not None
    colors = (weights * mesh.colors[corners]).sum(-2)
    for index, texture in enumerate(surface.textures):
        here = (surface.face_texture[face] == index).nonzero()[:, 0]
        uv = (weights[here] * surface.uv[corners[here]]).sum(-2)
        colors[here] *= sample_texture(texture, uv)
    return colors


def sample_texture(texture: UInt8[Tensor, "height width 3"], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Colours in [0, 1] at texture coordinates from the lower left corner; bilinear, repeating."""
    height, width = texture.shape[:2]
    x, y = (uv[:, 0] % 1) * width - 0.5, (-uv[:, 1] % 1) * height - 0.5
    column, row = x.floor(), y.floor()
    right, down = (x - column).float()[:, None], (y - row).float()[:, None]
    columns = [(column.long() + step) % width for step in (0, 1)]
    above, below = (
        texture[(row.long() + step) % height, columns[0]] * (1 - right)
        + texture[(row.long() + step) % height, columns[1]] * right
        for step in (0, 1)
    )
    return (above * (1 - down) + below * down) / 255


def _seen_normals(
    surface: Surface, cameras: Cameras, seen: RasterOutput, shading: Shading
) -> Float[Tensor, "num_seen 3"]:
    """Unit normals in world axes where something is seen, on the side that is seen: found meshes wind either way."""
    face = seen.face_index[seen.mask]
    flat = face_normals(surface.mesh)[face]
    direction = pixel_rays(cameras).directions[seen.mask].to(flat)
    toward = torch.where((flat * direction).sum(-1, keepdim=True) > 0, -1.0, 1.0)
    if shading == "flat":
        return flat * toward
    corners = surface.normals[surface.mesh.faces[face]]
    along = torch.einsum("nkc,nc->nk", corners, flat)[..., None]
    corners = torch.where(along < 0, -corners, corners)  # stored the wrong way round
    corners = torch.where(along.abs() < CREASE, flat[:, None], corners)
    smooth = (seen.barycentrics[seen.mask][..., None] * corners).sum(-2)
    return F.normalize(smooth, dim=-1) * toward


def _camera_normals(surface: Surface, cameras: Cameras, seen: RasterOutput, shading: Shading) -> Tensor:
    """Normal maps [v, 3, h, w] in OpenGL camera axes."""
    in_world = surface.normals.new_zeros(*seen.mask.shape, 3)
    in_world[seen.mask] = _seen_normals(surface, cameras, seen, shading)
    return rearrange(in_world @ to_opengl(cameras.poses)[:, None, :3, :3], "v h w c -> v c h w")


def _render_nvdiffrast(request: Request) -> Rendering:
    from core.render.cuda_raster import rasterize_nvdiffrast

    return draw(request, rasterize_nvdiffrast, "cuda")


def _render_blender(request: Request) -> Rendering:
    from data_tools.render.blender import render_blender  # starts a program of its own

    return render_blender(request)


ENGINES: dict[str, Callable[[Request], Rendering]] = {
    "cpu": render_cpu,
    "nvdiffrast": _render_nvdiffrast,
    "blender": _render_blender,
}
ONE_PROCESS = ("nvdiffrast", "blender")  # engines that fill the machine with one object
RASTER_SETTINGS = {"supersample": 3, "shading": "smooth"}
BLENDER_SETTINGS = {"executable": None, "samples": 128, "denoise": True}


def engine_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen engine's own settings, as it goes by them; BadRequest for one that it would not read."""
    drawn = cfg["engine"] != "blender"
    given = {name: cfg[name] for name in RASTER_SETTINGS}
    group = {f"blender.{name}": cfg["blender"][name] for name in BLENDER_SETTINGS}
    for name, value in (group if drawn else given).items():
        if value is not None:
            raise BadRequest(f"{name}={value}: engine={cfg['engine']} does not read it; leave it out")
    if drawn:
        return {name: given[name] if given[name] is not None else usual for name, usual in RASTER_SETTINGS.items()}
    chosen = {name: cfg["blender"][name] for name in BLENDER_SETTINGS}
    return {"blender": BLENDER_SETTINGS | {name: value for name, value in chosen.items() if value is not None}}


def check_engine(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse, before any work, an engine that is not installed or cannot start."""
    if name == "nvdiffrast":
        from core.render.cuda_raster import require_nvdiffrast

        require_nvdiffrast("engine=nvdiffrast")
    if name == "blender":
        from data_tools.render.blender import check_blender

        check_blender(settings["blender"]["executable"], denoise=settings["blender"]["denoise"])
