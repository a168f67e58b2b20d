"""A z-buffer rasteriser for triangle meshes, in plain torch, over all views at once.

Pixel centres stand at integer + 0.5; depth is the distance along the camera's forward axis. Triangles are tested in
homogeneous coordinates (Olano & Greer 1997): the three vertices of a triangle, multiplied by the intrinsics, are the
columns of a matrix V, and for a pixel d = (x, y, 1) the numbers q = V^-1 d are its barycentrics divided by its depth.
So 1/depth = sum(q), interpolation is perspective-correct without further thought, and a triangle that reaches behind
the camera needs no clipping.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.types import Cameras, Mesh

NEAR = 1e-2
# Pixels exactly on a shared edge belong to both triangles; the tolerance closes the crack that rounding could open.
EDGE_TOLERANCE = 1e-6
NUM_FRAGMENTS_AT_ONCE = 1 << 20  # bounds the memory: about 100 bytes each
EMPTY = torch.iinfo(torch.int64).max

# Lights stand still in the world, so that one surface point has one colour in every view (Lambertian shading).
KEY_LIGHT = (0.45, 0.35, 0.82)  # direction towards the light: above, in front (+x), to the left (+y)
FILL_LIGHT = (-0.60, -0.75, 0.28)  # weaker, from the other side
KEY, FILL, AMBIENT = 0.55, 0.22, 0.42


@dataclass(frozen=True)
class RasterOutput:
    """What each pixel sees; where nothing is seen, face_index is -1, barycentrics are 0 and depth is infinite."""

    face_index: Int[Tensor, "views height width"]
    barycentrics: Float[Tensor, "views height width 3"]
    depth: Float[Tensor, "views height width"]

    @property
    def mask(self) -> Bool[Tensor, "views height width"]:
        return self.face_index >= 0


def rasterize(mesh: Mesh, cameras: Cameras, *, near: float = NEAR, cull_backfaces: bool = False) -> RasterOutput:
    """The nearest face at every pixel centre of every view.

    Args:
        near: surfaces closer than this depth are not drawn.
        cull_backfaces: skip faces seen from behind (clockwise in the image); halves the work on closed meshes.
    """
    planes, boxes, pair = _visible_triangles(mesh, cameras, near, cull_backfaces)
    views, height, width = len(cameras), cameras.height, cameras.width
    num_faces = max(len(mesh.faces), 1)
    nearest = torch.full((views * height * width,), EMPTY, dtype=torch.int64, device=mesh.vertices.device)
    for triangle, x, y in _fragments(boxes):
        q = _evaluate(planes[triangle], x, y)
        inverse_depth = q.sum(0)
        inside = (q.amin(0) >= -EDGE_TOLERANCE * inverse_depth) & (inverse_depth > 0) & (inverse_depth <= 1 / near)
        triangle, x, y, depth = (values[inside] for values in (triangle, x, y, 1 / inverse_depth))
        pixel = (pair[triangle] // num_faces * height + y) * width + x
        # Positive floats sort like their bits: one integer minimum finds the depth and its face together.
        key = (depth.view(torch.int32).long() << 32) | triangle
        nearest.scatter_reduce_(0, pixel, key, "amin")

    seen = nearest != EMPTY
    triangle = nearest[seen] & 0xFFFFFFFF
    pixel = torch.arange(len(nearest), device=nearest.device)[seen]
    q = _evaluate(planes[triangle], pixel % width, pixel // width % height)
    face_index = torch.full_like(nearest, -1)
    face_index[seen] = pair[triangle] % num_faces
    barycentrics = mesh.vertices.new_zeros(len(nearest), 3)
    barycentrics[seen] = (q / q.sum(0)).T
    depth = mesh.vertices.new_full((len(nearest),), torch.inf)
    depth[seen] = 1 / q.sum(0)
    layout = {"v": views, "h": height, "w": width}
    return RasterOutput(
        face_index=rearrange(face_index, "(v h w) -> v h w", **layout),
        barycentrics=rearrange(barycentrics, "(v h w) k -> v h w k", **layout),
        depth=rearrange(depth, "(v h w) -> v h w", **layout),
    )


def interpolate(
    values: Float[Tensor, "num_vertices channels"], mesh: Mesh, raster: RasterOutput
) -> Float[Tensor, "views height width channels"]:
    """Vertex values at every pixel, zero where nothing is seen."""
    image = values.new_zeros(*raster.mask.shape, values.shape[-1])
    corners = values[mesh.faces[raster.face_index[raster.mask]]]
    image[raster.mask] = (raster.barycentrics[raster.mask][..., None] * corners).sum(-2)
    return image


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    *,
    supersample: int = 2,
    shading: Literal["smooth", "flat", "none"] = "smooth",
    cull_backfaces: bool = False,
) -> Float[Tensor, "views 4 height width"]:
    """RGBA images in [0, 1] with straight alpha; antialiased by `supersample` x `supersample` samples per pixel.

    Args:
        shading: "smooth" lights vertex normals and "flat" face normals, both with the key, fill and ambient light at
            the top of this module; "none" shows the mesh's colours as they are.
    """
    fine = cameras.scaled(cameras.width * supersample, cameras.height * supersample)
    raster = rasterize(mesh, fine, cull_backfaces=cull_backfaces)
    colors = mesh.colors if mesh.colors is not None else torch.full_like(mesh.vertices, 0.7)
    if shading == "smooth":
        colors = colors * irradiance(vertex_normals(mesh))
    rgb = interpolate(colors.clamp(0, 1), mesh, raster)
    if shading == "flat":
        rgb[raster.mask] *= irradiance(face_normals(mesh))[raster.face_index[raster.mask]]
    return averaged(rgb, raster, supersample)


def averaged(
    rgb: Float[Tensor, "views fine_height fine_width 3"], raster: RasterOutput, supersample: int
) -> Float[Tensor, "views 4 height width"]:
    """RGBA with straight alpha, of `supersample` x `supersample` samples per pixel."""
    premultiplied = torch.cat([rgb.clamp(0, 1), raster.mask[..., None].to(rgb)], dim=-1)
    premultiplied = reduce(
        premultiplied, "v (h i) (w j) c -> v c h w", "mean", i=supersample, j=supersample
    )  # colours are averaged weighted by coverage: an edge pixel keeps the object's colour
    alpha = premultiplied[:, 3:]
    return torch.cat([premultiplied[:, :3] / alpha.clamp(min=1e-6), alpha], dim=1)


def irradiance(normals: Float[Tensor, "num 3"]) -> Float[Tensor, "num 1"]:
    """Light arriving at surfaces with these unit normals; at most about 1."""
    key, fill = (F.normalize(normals.new_tensor(light), dim=0) for light in (KEY_LIGHT, FILL_LIGHT))
    light = AMBIENT + KEY * (normals @ key).clamp(min=0) + FILL * (normals @ fill).clamp(min=0)
    return light[:, None]


def face_normals(mesh: Mesh) -> Float[Tensor, "num_faces 3"]:
    """Unit normals of the faces, outwards."""
    return F.normalize(_area_normals(mesh), dim=-1)


def vertex_normals(mesh: Mesh) -> Float[Tensor, "num_vertices 3"]:
    """Unit normals of the vertices: the area-weighted mean over their faces. Vertices shared by no faces get zero."""
    normals = torch.zeros_like(mesh.vertices)
    normals.index_add_(0, rearrange(mesh.faces, "f k -> (f k)"), _area_normals(mesh).repeat_interleave(3, dim=0))
    return F.normalize(normals, dim=-1)


def _area_normals(mesh: Mesh) -> Float[Tensor, "num_faces 3"]:
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def _visible_triangles(
    mesh: Mesh, cameras: Cameras, near: float, cull_backfaces: bool
) -> tuple[Float[Tensor, "num 11"], Int[Tensor, "num 4"], Int[Tensor, " num"]]:
    """The triangles of all views that can cover a pixel centre.

    Returns:
        planes: q at the pixel (x, y) is planes[:3] * (x - planes[9]) + planes[3:6] * (y - planes[10]) + planes[6:9].
            Relative to the box's first pixel, (9, 10), the numbers stay small, so that float32 suffices.
        boxes: first column, first row, number of columns, number of rows.
        pair: view * num_faces + face.
    """
    world_to_camera = cameras.world_to_camera.to(mesh.vertices)
    in_camera = torch.einsum("vij,nj->vni", world_to_camera[:, :3, :3], mesh.vertices) + world_to_camera[:, None, :3, 3]
    homogeneous = torch.einsum("vij,vnj->vni", cameras.intrinsics.to(in_camera), in_camera)
    depths = homogeneous[..., 2]
    pixels = homogeneous[..., :2] / depths.clamp(min=near)[..., None]
    corners = rearrange(pixels[:, mesh.faces], "v f k xy -> (v f) k xy")
    in_front = rearrange((depths > near)[:, mesh.faces], "v f k -> (v f) k")

    size = corners.new_tensor([cameras.width, cameras.height])
    # A triangle that reaches behind the near plane may cover anything: its box is the whole image.
    reaches_behind = ~in_front.all(-1, keepdim=True)
    low = torch.where(reaches_behind, 0.0, corners.amin(1)).clamp(min=0)
    high = torch.where(reaches_behind, size, corners.amax(1)).minimum(size)
    first = (low - 0.5 - 1e-4).ceil().clamp(min=0)
    last = ((high - 0.5 + 1e-4).floor()).minimum(size - 1)
    covers = ((last >= first).all(-1) & in_front.any(-1)).nonzero()[:, 0]
    if cull_backfaces:
        a, b, c = corners[covers].unbind(1)
        # Counter-clockwise from outside looks clockwise-negative in pixels, where y points down.
        area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
        covers = covers[(area < 0) | reaches_behind[covers, 0]]

    num_faces = max(len(mesh.faces), 1)
    first, last = first[covers], last[covers]
    center = first.double() + 0.5
    v = homogeneous[covers[:, None] // num_faces, mesh.faces[covers % num_faces]].double()
    v = torch.cat([v[..., :2] - center[:, None] * v[..., 2:], v[..., 2:]], dim=-1)  # pixel (0, 0) = the box's first
    adjugate = torch.stack([torch.linalg.cross(v[:, i], v[:, (i + 1) % 3]) for i in (1, 2, 0)], dim=1)
    determinant = (adjugate[:, 0] * v[:, 0]).sum(-1)
    solid = determinant.abs() > 1e-14  # seen exactly edge-on, a triangle covers nothing
    planes = (adjugate[solid] / determinant[solid, None, None]).to(mesh.vertices)
    first, last = first[solid], last[solid]
    planes = torch.cat([rearrange(planes, "n k c -> n (c k)"), first], dim=-1)
    return planes, torch.cat([first, last - first + 1], dim=-1).long(), covers[solid]


def _fragments(
    boxes: Int[Tensor, "num 4"],
) -> Iterator[tuple[Int[Tensor, " fragments"], Int[Tensor, " fragments"], Int[Tensor, " fragments"]]]:
    """Every pixel of every box as (triangle, x, y), a bounded number at a time."""
    counts = boxes[:, 2] * boxes[:, 3]
    ends = counts.cumsum(0)
    start = 0
    while start < len(boxes):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, done + NUM_FRAGMENTS_AT_ONCE, right=True)))
        part = slice(start, stop)
        triangle = torch.repeat_interleave(torch.arange(start, stop, device=boxes.device), counts[part])
        place = torch.arange(len(triangle), device=boxes.device) - (ends - counts - done)[triangle]
        columns = boxes[:, 2][triangle]
        row = torch.div(place, columns, rounding_mode="floor")
        yield triangle, boxes[:, 0][triangle] + place - row * columns, boxes[:, 1][triangle] + row
        start = stop


def _evaluate(
    planes: Float[Tensor, "fragments 11"], x: Int[Tensor, " fragments"], y: Int[Tensor, " fragments"]
) -> Float[Tensor, "3 fragments"]:
    """q = barycentrics / depth at the centres of the pixels (x, y)."""
    planes = planes.T
    return planes[0:3] * (x - planes[9]) + planes[3:6] * (y - planes[10]) + planes[6:9]
