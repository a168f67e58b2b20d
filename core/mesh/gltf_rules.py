"""Whether a .glb keeps the rules of glTF 2.0 that our meshes can break: its container, buffers, accessors and images.

Not a whole validator: scenes with animations, skins or sparse accessors are beyond it. Khronos's own is run by
tests/mesh/test_gltf.py where it is installed.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import BadMesh
from core.mesh.export import BIN_CHUNK, GLB_MAGIC, JSON_CHUNK

COMPONENTS = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
# Of attributes: the types that the specification allows, here for floats only.
ATTRIBUTES = {"POSITION": {"VEC3"}, "NORMAL": {"VEC3"}, "TEXCOORD_0": {"VEC2"}, "COLOR_0": {"VEC3", "VEC4"}}
SIGNATURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
UNIT_TOLERANCE = 5e-3  # of a normal's length, as in Khronos's validator


def check_glb(path: str | Path) -> None:
    """Raises BadMesh with the first broken rule and the number of the others."""
    faults = glb_faults(Path(path).read_bytes())
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadMesh(f"{str(path)!r} breaks the rules of glTF 2.0: {faults[0]}{more}")


def glb_faults(data: bytes) -> list[str]:
    """Every broken rule, one line each."""
    try:
        content, binary = _chunks(data)
        return list(_faults(content, binary))
    except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
        return [f"it cannot be read ({type(error).__name__}: {error})"]


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    magic, version, length = struct.unpack_from("<III", data)
    size, kind = struct.unpack_from("<II", data, 12)
    if (magic, version, length, kind) != (GLB_MAGIC, 2, len(data), JSON_CHUNK) or size % 4:
        raise ValueError("a wrong header, or a first chunk that is no JSON of a multiple of 4 bytes")
    binary_size, kind = struct.unpack_from("<II", data, 20 + size)
    if kind != BIN_CHUNK or binary_size % 4 or 28 + size + binary_size != length:
        raise ValueError("a second chunk that is no buffer of a multiple of 4 bytes, or not the last one")
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def _faults(content: dict[str, Any], binary: bytes) -> Iterator[str]:
    if content["asset"]["version"] != "2.0":
        yield f"asset.version is {content['asset']['version']}"
    length = content["buffers"][0]["byteLength"]
    if not 0 <= len(binary) - length <= 3:
        yield f"the buffer says {length} bytes, its chunk holds {len(binary)}"
    views = content["bufferViews"]
    for number, view in enumerate(views):
        if view.get("byteOffset", 0) + view["byteLength"] > length or view["byteLength"] < 1:
            yield f"bufferView {number} leaves the buffer"
    arrays: list[np.ndarray] = []
    for number, accessor in enumerate(content["accessors"]):
        array, fault = _array(accessor, views[accessor["bufferView"]], binary)
        arrays.append(array)
        if fault:
            yield f"accessor {number} {fault}"
    for mesh in content["meshes"]:
        for primitive in mesh["primitives"]:
            yield from _primitive_faults(primitive, arrays, content)
    yield from _reference_faults(content)
    yield from _image_faults(content, binary)


def _array(accessor: dict[str, Any], view: dict[str, Any], binary: bytes) -> tuple[np.ndarray, str | None]:
    """An accessor's values, and what is wrong about it."""
    kind, width, count = np.dtype(COMPONENTS[accessor["componentType"]]), WIDTHS[accessor["type"]], accessor["count"]
    offset, inner = view.get("byteOffset", 0), accessor.get("byteOffset", 0)
    if count < 1 or inner + count * width * kind.itemsize > view["byteLength"]:
        return np.zeros((0, width), kind), "reaches over its bufferView's end, or is empty"
    array = np.frombuffer(binary, kind, count * width, offset + inner).reshape(count, width)
    if (offset + inner) % kind.itemsize:
        return array, "is not aligned to its component's size"
    if kind.kind == "f" and not np.isfinite(array).all():
        return array, "holds NaN or infinity"
    for key, extreme in (("min", array.min(0)), ("max", array.max(0))):
        if key in accessor and not np.array_equal(np.asarray(accessor[key], kind), extreme):
            return array, f"has another {key} than it says"
    return array, None


def _primitive_faults(primitive: dict[str, Any], arrays: list[np.ndarray], content: dict[str, Any]) -> Iterator[str]:
    accessors, attributes = content["accessors"], primitive["attributes"]
    if not {"min", "max"} <= accessors[attributes["POSITION"]].keys():
        yield "POSITION lacks min or max"
    count = len(arrays[attributes["POSITION"]])
    for name, index in attributes.items():
        if name not in ATTRIBUTES or accessors[index]["type"] not in ATTRIBUTES[name]:
            yield f"attribute {name} is unknown, or of the type {accessors[index]['type']}"
        if len(arrays[index]) != count:
            yield f"{name} has {len(arrays[index])} vertices, POSITION {count}"
    if "NORMAL" in attributes:
        lengths = np.linalg.norm(arrays[attributes["NORMAL"]], axis=1)
        if (abs(lengths - 1) > UNIT_TOLERANCE).any():
            yield "a NORMAL is not of unit length"
    if "COLOR_0" in attributes:
        colors = arrays[attributes["COLOR_0"]]
        if colors.min() < 0 or colors.max() > 1:
            yield "a COLOR_0 is not in [0, 1]"
    indices = arrays[primitive["indices"]]
    if indices.dtype.kind != "u" or len(indices) % 3 or (len(indices) and int(indices.max()) >= count):
        yield "the indices are no whole triangles of vertices that exist"


def _reference_faults(content: dict[str, Any]) -> Iterator[str]:
    """References to what is not there, and extensions that are used and not declared."""
    sizes = {
        name: len(content.get(name, [])) for name in ("scenes", "nodes", "meshes", "materials", "textures", "images")
    }
    targets = [("scenes", content["scene"])]
    targets += [("nodes", node) for scene in content["scenes"] for node in scene["nodes"]]
    targets += [("meshes", node["mesh"]) for node in content["nodes"] if "mesh" in node]
    primitives = [primitive for mesh in content["meshes"] for primitive in mesh["primitives"]]
    targets += [("materials", primitive["material"]) for primitive in primitives if "material" in primitive]
    targets += [("images", texture["source"]) for texture in content.get("textures", [])]
    for material in content.get("materials", []):
        used = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        if used is not None:
            targets.append(("textures", used["index"]))
        missing = set(material.get("extensions", {})) - set(content.get("extensionsUsed", []))
        if missing:
            yield f"extensionsUsed lacks {min(missing)}"
    for primitive in primitives:
        textured = (
            content["materials"][primitive["material"]].get("pbrMetallicRoughness", {})
            if "material" in primitive
            else {}
        )
        if "baseColorTexture" in textured and "TEXCOORD_0" not in primitive["attributes"]:
            yield "a primitive with a texture has no TEXCOORD_0"
    for name, index in targets:
        if not 0 <= index < sizes[name]:
            yield f"{name}[{index}] is referred to and not there"


def _image_faults(content: dict[str, Any], binary: bytes) -> Iterator[str]:
    for number, image in enumerate(content.get("images", [])):
        view = content["bufferViews"][image["bufferView"]]
        start = view.get("byteOffset", 0)
        if not binary[start:].startswith(SIGNATURES[image["mimeType"]]):
            yield f"image {number} is no {image['mimeType']}"
        if "target" in view:
            yield f"image {number} lies in a bufferView with a target"
