"""Meshes as files: .glb, .obj (with .mtl and a texture) and .ply.

Our colours are sRGB, as in images. What a file stores:

    .glb  y up, as glTF demands: (x, y, z) -> (y, z, x), so that azimuth 0 looks at a viewer's camera on +z.
          Vertex colours COLOR_0 are linear by the specification, so they are floats: 8 bits of linear light would show
          steps in dark tones (trimesh rounds to that when it reads). A texture is sRGB.
          The material is unlit (KHR_materials_unlit): our colours already contain the light.
    .obj  our axes (z up), texture sRGB, one vertex per corner of the unwrapped surface.
    .ply  our axes (z up), vertex colours sRGB, 8 bits.

`read_mesh` undoes all of it. Files appear whole or not at all; an .obj is renamed last, when its texture is there.
"""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.errors import BadMesh
from core.files import atomic_file
from core.images import from_pil
from core.mesh.texture import TexturedMesh
from core.srgb import to_linear, to_srgb
from core.types import Mesh

FORMATS = (".glb", ".obj", ".ply")
GLB_MAGIC, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, UNSIGNED_INT = 5126, 5125  # glTF component types
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963


def z_up_to_y_up(vertices: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Our world to glTF's: a rotation that turns z into y and x into z."""
    return vertices[:, [1, 2, 0]]


def y_up_to_z_up(vertices: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The inverse of `z_up_to_y_up`."""
    return vertices[:, [2, 0, 1]]


def write_mesh(path: str | Path, mesh: Mesh | TexturedMesh) -> None:
    """Write `mesh` in the format that the suffix of `path` names; BadMesh for an unknown one or a broken mesh."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise BadMesh(f"cannot write {path.name!r}: unknown mesh format; use one of {', '.join(FORMATS)}")
    geometry = mesh.mesh if isinstance(mesh, TexturedMesh) else mesh
    if len(geometry.faces) == 0 or not torch.isfinite(geometry.vertices).all():
        raise BadMesh(f"cannot write {path.name!r}: the mesh has no faces, or vertices that are not finite")
    if path.suffix.lower() == ".glb":
        _write_bytes(path, glb_bytes(mesh))
    elif path.suffix.lower() == ".ply":
        _write_bytes(path, trimesh.exchange.ply.export_ply(_colored(geometry), encoding="binary"))
    elif isinstance(mesh, TexturedMesh):
        _write_obj(path, mesh)
    else:
        raise BadMesh(f"cannot write {path.name!r}: an .obj needs a texture; bake one (core.mesh.texture)")


def read_mesh(path: str | Path) -> Mesh:
    """A mesh in our axes with sRGB vertex colours (from its vertices, or looked up in its texture)."""
    path = Path(path)
    is_gltf = path.suffix.lower() in (".glb", ".gltf")
    try:
        pieces = _load(path)
        if is_gltf and not any(_image_of(piece) for piece in pieces):
            # Beside a material without a texture trimesh would drop the vertex colours.
            pieces = _load(path, skip_materials=True)
    except FileNotFoundError as error:
        raise BadMesh(f"no mesh at {str(path)!r}; check the path") from error
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        raise BadMesh(f"cannot read mesh {str(path)!r} ({type(error).__name__}: {error})") from error
    if not sum(len(piece.faces) for piece in pieces):
        raise BadMesh(f"mesh {str(path)!r} has no faces")
    vertices = torch.cat([torch.from_numpy(np.asarray(piece.vertices, dtype=np.float32)) for piece in pieces])
    offsets = np.cumsum([0] + [len(piece.vertices) for piece in pieces[:-1]])
    faces = np.concatenate([np.asarray(p.faces, dtype=np.int64) + o for p, o in zip(pieces, offsets, strict=True)])
    colors = [_colors_of(piece, linear=is_gltf) for piece in pieces]
    return Mesh(
        y_up_to_z_up(vertices) if is_gltf else vertices,
        torch.from_numpy(faces),
        None if any(part is None for part in colors) else torch.cat([part for part in colors if part is not None]),
    )


def read_textured(path: str | Path) -> TexturedMesh:
    """A textured .glb or .obj of one piece, in our axes; BadMesh for any other."""
    path = Path(path)
    is_gltf = path.suffix.lower() in (".glb", ".gltf")
    try:
        pieces = _load(path)
    except Exception as error:  # trimesh's readers raise whatever their parsers do
        raise BadMesh(f"cannot read mesh {str(path)!r} ({type(error).__name__}: {error})") from error
    images = [_image_of(piece) for piece in pieces]
    if len(pieces) != 1 or images[0] is None or pieces[0].visual.uv is None:
        raise BadMesh(f"mesh {str(path)!r} is not one piece with a texture")
    vertices = torch.from_numpy(np.asarray(pieces[0].vertices, dtype=np.float32))
    faces = torch.from_numpy(np.asarray(pieces[0].faces, dtype=np.int64))
    uv = torch.from_numpy(np.asarray(pieces[0].visual.uv, dtype=np.float32))
    texture = from_pil(images[0].convert("RGB"))
    return TexturedMesh(Mesh(y_up_to_z_up(vertices) if is_gltf else vertices, faces), uv, texture)


def glb_bytes(mesh: Mesh | TexturedMesh) -> bytes:
    """A binary glTF 2.0 file with one unlit primitive."""
    geometry = mesh.mesh if isinstance(mesh, TexturedMesh) else mesh
    positions = z_up_to_y_up(geometry.vertices.detach().cpu().float()).numpy().copy()
    indices = geometry.faces.detach().cpu().numpy().astype(np.uint32).reshape(-1)
    builder = _Buffer()
    attributes = {
        "POSITION": builder.add(
            positions, FLOAT, "VEC3", ARRAY_BUFFER, min=positions.min(0).tolist(), max=positions.max(0).tolist()
        )
    }
    material: dict[str, Any] = {
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {"KHR_materials_unlit": {}},
        "doubleSided": True,
    }
    content: dict[str, Any] = {"extensionsUsed": ["KHR_materials_unlit"]}
    if isinstance(mesh, TexturedMesh):
        uv = mesh.uv.detach().cpu().float().numpy() * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)
        attributes["TEXCOORD_0"] = builder.add(uv, FLOAT, "VEC2", ARRAY_BUFFER)  # glTF counts v from the top
        view = builder.add_view(_png(mesh.texture))
        content |= {"images": [{"bufferView": view, "mimeType": "image/png"}], "textures": [{"source": 0}]}
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    elif geometry.colors is not None:
        linear = to_linear(geometry.colors.detach().cpu().float().clamp(0, 1)).numpy()
        rgba = np.concatenate([linear, np.ones_like(linear[:, :1])], axis=1)
        attributes["COLOR_0"] = builder.add(rgba, FLOAT, "VEC4", ARRAY_BUFFER)
    primitive = {
        "attributes": attributes,
        "indices": builder.add(indices, UNSIGNED_INT, "SCALAR", ELEMENT_ARRAY_BUFFER),
        "material": 0,
    }
    content |= {
        "asset": {"version": "2.0", "generator": "Turntable"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "accessors": builder.accessors,
        "bufferViews": builder.views,
        "buffers": [{"byteLength": len(builder.data)}],
    }
    return _glb(json.dumps(content).encode(), bytes(builder.data))


class _Buffer:
    """The binary chunk of a glTF file under construction; every part starts at a multiple of 4 bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_view(self, content: bytes, **more: Any) -> int:
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more})
        self.data += content + b"\0" * (-len(content) % 4)
        return len(self.views) - 1

    def add(self, array: np.ndarray, component: int, kind: str, target: int, **more: Any) -> int:
        view = self.add_view(np.ascontiguousarray(array).tobytes(), target=target)
        self.accessors.append(
            {"bufferView": view, "componentType": component, "count": len(array), "type": kind, **more}
        )
        return len(self.accessors) - 1


def _glb(text: bytes, binary: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BIN_CHUNK) + binary
    return struct.pack("<III", GLB_MAGIC, 2, 12 + len(chunks)) + chunks


def _png(texture: Float[Tensor, "3 h w"]) -> bytes:
    array = (texture.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()


def _colored(mesh: Mesh) -> trimesh.Trimesh:
    colors = None
    if mesh.colors is not None:
        colors = (mesh.colors.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return trimesh.Trimesh(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy(), vertex_colors=colors, process=False)


def _write_obj(path: Path, textured: TexturedMesh) -> None:
    material, texture = path.with_suffix(".mtl"), path.with_suffix(".png")
    _write_bytes(texture, _png(textured.texture))
    # Ka, Ks 0 and illum 0: the colours already contain the light.
    lines = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "illum 0", f"map_Kd {texture.name}"]
    _write_bytes(material, ("\n".join(lines) + "\n").encode())
    vertices, faces = textured.mesh.vertices.cpu().numpy(), textured.mesh.faces.cpu().numpy() + 1
    text = [f"mtllib {material.name}", "usemtl surface"]
    text += ["v {:.6f} {:.6f} {:.6f}".format(*vertex) for vertex in vertices]
    text += ["vt {:.6f} {:.6f}".format(*uv) for uv in textured.uv.cpu().numpy()]
    text += ["f {0}/{0} {1}/{1} {2}/{2}".format(*face) for face in faces]
    _write_bytes(path, ("\n".join(text) + "\n").encode())


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def _colors_of(piece: trimesh.Trimesh, *, linear: bool) -> Float[Tensor, "n 3"] | None:
    """Vertex colours in sRGB, or the texture's at the vertices; None when there are none.

    Args:
        linear: vertex colours are stored as linear light; textures never are.
    """
    image = _image_of(piece)
    if image is not None and piece.visual.uv is not None:
        stored, linear = trimesh.visual.color.uv_to_interpolated_color(piece.visual.uv, image), False
    elif piece.visual.kind == "vertex":
        stored = piece.visual.vertex_colors
    else:
        return None
    array = np.asarray(stored)
    scale = np.iinfo(array.dtype).max if np.issubdtype(array.dtype, np.integer) else 1
    colors = torch.from_numpy(array[:, :3].astype(np.float32) / scale)
    return to_srgb(colors) if linear else colors


def _load(path: Path, **options: Any) -> list[trimesh.Trimesh]:
    return [piece for piece in trimesh.load_scene(path, **options).dump() if isinstance(piece, trimesh.Trimesh)]


def _image_of(piece: trimesh.Trimesh) -> Image.Image | None:
    material = getattr(piece.visual, "material", None)
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
