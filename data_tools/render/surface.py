"""Meshes from elsewhere, as a renderer wants them: with their textures, normals and colours, and normalised.

Read are triangles, vertex colours, base colours and base-colour textures of .glb, .obj (with .mtl) and .ply, all nodes
of a scene in their places. Vertex colours and base colours of a .glb are linear light by its specification, those of
the others sRGB; ours are sRGB. A texture is multiplied by the vertices' colours, in sRGB. Opacity is ignored.

World: z up. A .glb is turned as `core.mesh.export` says, (x, y, z) -> (z, x, y); others are taken as they stand, or
turned so too where the caller says that they are y up.
"""

import io
import json
import logging
import math
import struct
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from core.errors import BadMesh
from core.mesh.export import FORMATS, GLB_MAGIC, y_up_to_z_up
from core.srgb import to_srgb
from core.types import Mesh
from data_tools.render.obj import obj_fault

MAX_FACES = 10_000_000  # 5 million take 2.7 GB and 9 CPU-seconds to read; a larger one is a scan that wants decimation
GRAY = 0.7  # of what has no colour
SMALL = 1e-3
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga", ".tif", ".tiff", ".gif")

logging.getLogger("trimesh").setLevel(logging.ERROR)  # what it warns of, we say in one line

Kind = Literal["unit_cube", "unit_sphere", "none"]
Up = Literal["auto", "y", "z"]


@dataclass(frozen=True)
class Surface:
    """Triangles with all that decides their colour.

    `mesh.colors` are factors where a face has a texture. Texture coordinates count from the lower left corner and
    repeat; `face_texture` is -1 where a face has none.
    """

    mesh: Mesh
    normals: Float[Tensor, "num_vertices 3"]  # the file's, or averaged over a vertex's faces
    uv: Float[Tensor, "num_vertices 2"]
    face_texture: Int[Tensor, " num_faces"]
    textures: tuple[UInt8[Tensor, "height width 3"], ...] = ()
    degenerate_faces: int = 0  # without area, left out
    missing_textures: tuple[str, ...] = ()  # what was said to be there but is not, or cannot be decoded
    up: Literal["y", "z"] = "z"  # of the file

    def to(self, device: str | torch.device) -> "Surface":
        """On another device."""
        colors = None if self.mesh.colors is None else self.mesh.colors.to(device)
        return replace(
            self,
            mesh=Mesh(self.mesh.vertices.to(device), self.mesh.faces.to(device), colors),
            normals=self.normals.to(device),
            uv=self.uv.to(device),
            face_texture=self.face_texture.to(device),
            textures=tuple(texture.to(device) for texture in self.textures),
        )


@dataclass(frozen=True)
class Normalisation:
    """`normalised = (vertex + offset) * scale`, in world axes (z up); undone by `vertex = normalised / scale - offset`.

    unit_cube: the bounding box's centre at 0, its longest side 1 (SyncDreamer, Zero-1-to-3). unit_sphere: the same
    centre, the farthest vertex at 0.5, so that no turn of the object leaves the unit cube. none: nothing is changed.
    """

    kind: Kind
    offset: tuple[float, float, float]
    scale: float

    def apply(self, vertices: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return (vertices.double() + torch.tensor(self.offset, dtype=torch.float64)) * self.scale

    def undo(self, vertices: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return vertices.double() / self.scale - torch.tensor(self.offset, dtype=torch.float64)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"offset": list(self.offset)}


def normalise(surface: Surface, kind: Kind) -> tuple[Surface, Normalisation]:
    """The surface in its normalised place (float32 from here on), and how it got there."""
    vertices = surface.mesh.vertices.double()
    low, high = vertices.amin(0), vertices.amax(0)
    center = low / 2 + high / 2  # halved first: the sum of two huge numbers may be infinite
    if kind == "none":
        found = Normalisation(kind, (0.0, 0.0, 0.0), 1.0)
    else:
        size = (high - low).max() if kind == "unit_cube" else 2 * (vertices - center).norm(dim=-1).max()
        scale = 1.0 / size.item() if size > 0 else math.inf
        if not math.isfinite(scale) or scale == 0:
            raise BadMesh(f"the mesh is {size.item():g} long, which cannot be scaled to 1; is its unit right?")
        x, y, z = (0.0 - center).tolist()
        found = Normalisation(kind, (x, y, z), scale)
    moved = found.apply(vertices).float()
    if not torch.isfinite(moved).all():
        raise BadMesh("the mesh is too large for 32-bit numbers; normalise=unit_cube makes it small")
    return replace(surface, mesh=replace(surface.mesh, vertices=moved)), found


def read_surface(path: str | Path, *, up: Up = "auto") -> Surface:
    """The triangles of a mesh file, float64 and not normalised; BadMesh, in one line, for what cannot be rendered.

    Args:
        up: the file's upward axis; auto: y for a .glb, z for others.
    """
    path = Path(path)
    try:
        return _read_surface(path, up)
    except ValueError as error:  # BadMesh is one, and so is what numpy says of vertices with two numbers
        fault = obj_fault(path) if path.suffix.lower() == ".obj" else None
        if fault is None:
            raise
        raise BadMesh(f"mesh {path.name!r} is broken: {fault}; repair that line, or export the mesh again") from error


def _read_surface(path: Path, up: Up) -> Surface:
    if path.suffix.lower() not in FORMATS:
        raise BadMesh(f"cannot read {path.name!r}: give one of {', '.join(FORMATS)}")
    is_glb = path.suffix.lower() == ".glb"
    resolver = None
    try:
        if path.stat().st_size == 0:
            raise BadMesh(f"mesh {path.name!r} is empty (0 bytes); copy it again")
        if is_glb and not _starts_as_glb(path):
            raise BadMesh(f"{path.name!r} is no .glb (binary glTF) file")
        resolver = _Resolver(path)
        scene = trimesh.load_scene(path, resolver=resolver, process=False)
    except FileNotFoundError as error:
        raise BadMesh(f"no mesh at {str(path)!r}; check the path") from error
    except BadMesh:
        raise
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        raise BadMesh(
            f"{path.name!r} is broken or no {path.suffix.lower()} mesh; copy or export it again (its reader stopped by "
            f"{type(error).__name__}: {error})"
        ) from error
    pieces = [
        (scene.graph[node][0], piece)
        for node in scene.graph.nodes_geometry
        if isinstance(piece := scene.geometry[scene.graph[node][1]], trimesh.Trimesh) and len(piece.faces)
    ]
    num_faces = sum(len(piece.faces) for _, piece in pieces)
    if num_faces == 0:
        raise BadMesh(f"mesh {path.name!r} has no faces")
    if num_faces > MAX_FACES:
        raise BadMesh(f"mesh {path.name!r} has {num_faces:,} faces, more than the limit of {MAX_FACES:,}; decimate it")
    file_up = up if up != "auto" else ("y" if is_glb else "z")
    faults = [*resolver.faults, *(_embedded_faults(path) if is_glb else [])]
    surface = _joined([_read_piece(matrix, piece, is_glb, path.name) for matrix, piece in pieces])
    if file_up == "y":
        mesh = replace(surface.mesh, vertices=y_up_to_z_up(surface.mesh.vertices))
        surface = replace(surface, mesh=mesh, normals=y_up_to_z_up(surface.normals))
    return _solid(replace(surface, missing_textures=tuple(dict.fromkeys(faults)), up=file_up), path.name)


def _starts_as_glb(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == struct.pack("<I", GLB_MAGIC)


class _Resolver(trimesh.resolvers.FilePathResolver):
    """Finds the files that a mesh names, below its folder, and remembers those that it could not give."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.faults: list[str] = []

    def get(self, name: str) -> bytes:
        try:
            content = super().get(name)
        except (OSError, ValueError):
            self.faults.append(f"{name!r} is missing")
            raise
        if name.lower().endswith(PICTURES) and not _is_picture(content):
            self.faults.append(f"{name!r} is no picture")
        return content


def _is_picture(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)):
            return True
    except Exception:  # Pillow raises almost anything on broken files
        return False


def _embedded_faults(path: Path) -> list[str]:
    """Pictures inside a .glb that nothing here can decode (KTX2, damaged ones): trimesh leaves them out silently."""
    content = path.read_bytes()
    length = struct.unpack("<I", content[12:16])[0]
    header = json.loads(content[20 : 20 + length])
    start, views, faults = 20 + length + 8, header.get("bufferViews", []), []
    for index, image in enumerate(header.get("images", [])):
        if "bufferView" in image:
            view = views[image["bufferView"]]
            first = start + view.get("byteOffset", 0)
            if not _is_picture(content[first : first + view["byteLength"]]):
                faults.append(
                    f"embedded picture {index} ({image.get('mimeType', 'of unknown type')}) cannot be decoded"
                )
    return faults


def _read_piece(matrix: np.ndarray, piece: trimesh.Trimesh, is_glb: bool, name: str) -> Surface:
    """One primitive of a scene, in its place; colours and textures in sRGB."""
    if piece.visual.kind == "face":
        piece.unmerge_vertices()  # each corner its own vertex, which has its face's colour
    with np.errstate(invalid="ignore"):  # NaN is for the checks below to name
        vertices = piece.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(piece.faces, dtype=np.int64)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise BadMesh(f"mesh {name!r} has faces of vertices that do not exist")
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1].copy()  # a mirrored piece winds the other way
    with np.errstate(all="ignore"):
        if 0 < (extent := np.ptp(vertices, axis=0).max()) < SMALL:
            piece.apply_scale(1 / extent)  # trimesh takes very small faces for none, and would average no normals
        normals = np.asarray(piece.vertex_normals) @ np.linalg.pinv(matrix[:3, :3])
    material, uv = getattr(piece.visual, "material", None), getattr(piece.visual, "uv", None)
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if not is_glb and getattr(picture, "format", None) is None:
        picture = None  # trimesh puts a gray one where a file has texture coordinates alone
    textures = ()
    if picture is not None and uv is not None and len(uv) == len(vertices):
        try:
            textures = (torch.from_numpy(np.array(picture.convert("RGB"))),)
        except Exception as error:  # a cut picture is found out only when it is decoded
            raise BadMesh(f"a texture of {name!r} is broken ({type(error).__name__}: {error})") from error
        if not np.isfinite(uv).all():
            raise BadMesh(f"mesh {name!r} has texture coordinates that are NaN or infinite")
    return Surface(
        mesh=Mesh(
            torch.from_numpy(vertices), torch.from_numpy(faces), _colors(piece, material, is_glb, bool(textures))
        ),
        normals=torch.nn.functional.normalize(torch.from_numpy(np.nan_to_num(normals)), dim=-1).float(),
        uv=torch.from_numpy(np.asarray(uv, dtype=np.float64)) if textures else torch.zeros(len(vertices), 2).double(),
        face_texture=torch.full((len(faces),), 0 if textures else -1),
        textures=textures,
    )


def _colors(piece: trimesh.Trimesh, material: Any, is_glb: bool, textured: bool) -> Float[Tensor, "n 3"]:
    """Vertex colours times the material's, in sRGB; gray where the file says nothing, white under a texture."""
    stored, visual = None, piece.visual
    if visual.kind == "vertex":
        stored = visual.vertex_colors
    elif visual.kind == "face":
        stored = np.repeat(visual.face_colors, 3, axis=0)
    elif visual.kind == "texture" and "color" in visual.vertex_attributes:
        stored = visual.vertex_attributes["color"]  # a .glb may have both
    colors = None if stored is None or len(stored) != len(piece.vertices) else _unit(stored)
    if is_glb:
        factor = getattr(material, "baseColorFactor", None)
        if factor is not None:
            colors = _unit(factor[None]) * (torch.ones(1, 3) if colors is None else colors)
        colors = None if colors is None else to_srgb(colors.clamp(0, 1))
    elif colors is None and not textured:  # under a texture, exporters write any Kd
        diffuse = getattr(material, "kwargs", {}).get("kd")
        colors = None if np.shape(diffuse) != (3,) else torch.tensor([diffuse], dtype=torch.float32).clamp(0, 1)
    if colors is None:
        colors = torch.full((1, 3), 1.0 if textured else GRAY)
    return colors.expand(len(piece.vertices), 3)


def _unit(stored: np.ndarray) -> Float[Tensor, "n 3"]:
    """Colours of any stored type in [0, 1], without alpha."""
    array = np.asarray(stored)
    scale = np.iinfo(array.dtype).max if np.issubdtype(array.dtype, np.integer) else 1
    return torch.from_numpy(array[:, :3].astype(np.float32) / scale)


def _joined(parts: list[Surface]) -> Surface:
    """All pieces as one."""
    faces, face_texture, vertices, textures = [], [], 0, 0
    for part in parts:
        faces.append(part.mesh.faces + vertices)
        face_texture.append(torch.where(part.face_texture >= 0, part.face_texture + textures, -1))
        vertices, textures = vertices + len(part.mesh.vertices), textures + len(part.textures)
    mesh = Mesh(
        torch.cat([part.mesh.vertices for part in parts]),
        torch.cat(faces),
        torch.cat([part.mesh.colors for part in parts if part.mesh.colors is not None]),
    )
    return Surface(
        mesh,
        torch.cat([part.normals for part in parts]),
        torch.cat([part.uv for part in parts]),
        torch.cat(face_texture),
        tuple(texture for part in parts for texture in part.textures),
    )


def _solid(surface: Surface, name: str) -> Surface:
    """Without faces that have no area and without vertices of no face, which would count in the bounding box."""
    mesh = surface.mesh
    used = torch.unique(mesh.faces)
    if not torch.isfinite(mesh.vertices[used]).all():
        bad = int((~torch.isfinite(mesh.vertices[used])).any(-1).sum())
        raise BadMesh(f"mesh {name!r} has {bad} vertices that are NaN or infinite")
    extent = (mesh.vertices[used].amax(0) - mesh.vertices[used].amin(0)).max()
    a, b, c = (mesh.vertices[mesh.faces] / extent.clamp(min=1e-300)).unbind(1)  # huge coordinates would overflow
    solid = torch.linalg.cross(b - a, c - a).norm(dim=-1) > 0
    if not solid.any():
        raise BadMesh(f"mesh {name!r}: all {len(solid)} faces are degenerate (no area)")
    used, compact = torch.unique(mesh.faces[solid], return_inverse=True)
    colors = None if mesh.colors is None else mesh.colors[used]
    return replace(
        surface,
        mesh=Mesh(mesh.vertices[used], compact, colors),
        normals=surface.normals[used],
        uv=surface.uv[used],
        face_texture=surface.face_texture[solid],
        degenerate_faces=int((~solid).sum()),
    )
