"""The .glb files that we write keep the rules of glTF 2.0, by our own check of them and by Khronos's validator."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from core.errors import BadMesh
from core.mesh.export import BIN_CHUNK, GLB_MAGIC, JSON_CHUNK, write_mesh
from core.mesh.gltf_rules import check_glb, glb_faults
from core.mesh.texture import bake_texture
from core.types import Mesh

Change = Callable[[dict[str, Any], bytearray], object]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A ball with colours at its vertices, and one with a texture."""
    ball = trimesh.creation.icosphere(subdivisions=1, radius=0.4)
    vertices = torch.from_numpy(np.asarray(ball.vertices, dtype=np.float32))
    mesh = Mesh(vertices, torch.from_numpy(np.asarray(ball.faces, dtype=np.int64)), (vertices + 0.5).clamp(0, 1))
    folder = tmp_path_factory.mktemp("glb")
    write_mesh(folder / "colours.glb", mesh)
    write_mesh(folder / "texture.glb", bake_texture(mesh, size=32))
    return {name: folder / f"{name}.glb" for name in ("colours", "texture")}


def changed(data: bytes, change: Change) -> bytes:
    """The file with its JSON and its buffer changed, and whole chunks around them."""
    (size,) = struct.unpack_from("<I", data, 12)
    content, binary = json.loads(data[20 : 20 + size]), bytearray(data[28 + size :])
    change(content, binary)
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(binary), BIN_CHUNK) + binary
    return struct.pack("<III", GLB_MAGIC, 2, 12 + len(chunks)) + chunks


@pytest.mark.parametrize("name", ["colours", "texture"])
def test_what_we_write_keeps_the_rules(files, name):
    check_glb(files[name])


def accessor_of(content: dict[str, Any], name: str) -> dict[str, Any]:
    primitive = content["meshes"][0]["primitives"][0]
    return content["accessors"][primitive["indices"] if name == "indices" else primitive["attributes"][name]]


def poke(content: dict[str, Any], binary: bytearray, name: str, value: bytes) -> None:
    """Writes over the first bytes of an accessor's values."""
    start = content["bufferViews"][accessor_of(content, name)["bufferView"]]["byteOffset"]
    binary[start : start + len(value)] = value


BREAKS: dict[str, tuple[str, Change, str]] = {
    "version": ("colours", lambda c, b: c["asset"].update(version="1.0"), "asset.version"),
    "buffer": ("colours", lambda c, b: c["buffers"][0].update(byteLength=4), "the buffer says 4 bytes"),
    "view": ("colours", lambda c, b: c["bufferViews"][-1].update(byteLength=10**6), "leaves the buffer"),
    "count": ("colours", lambda c, b: accessor_of(c, "POSITION").update(count=10**6), "reaches over"),
    "alignment": ("colours", lambda c, b: accessor_of(c, "COLOR_0").update(byteOffset=2, count=3), "not aligned"),
    "bounds": ("colours", lambda c, b: accessor_of(c, "POSITION").update(max=[9, 9, 9]), "another max"),
    "no bounds": ("colours", lambda c, b: accessor_of(c, "POSITION").pop("min"), "lacks min or max"),
    "nan": ("colours", lambda c, b: poke(c, b, "POSITION", struct.pack("<f", np.nan)), "NaN or infinity"),
    "index": ("colours", lambda c, b: poke(c, b, "indices", struct.pack("<I", 999)), "no whole triangles"),
    "colour": ("colours", lambda c, b: poke(c, b, "COLOR_0", struct.pack("<f", 1.5)), "not in [0, 1]"),
    "material": ("colours", lambda c, b: c["materials"].clear(), "cannot be read"),
    "extension": ("colours", lambda c, b: c.pop("extensionsUsed"), "extensionsUsed lacks KHR_materials_unlit"),
    "scene": ("colours", lambda c, b: c.update(scene=3), "scenes[3] is referred to"),
    "image": ("texture", lambda c, b: c["images"][0].update(mimeType="image/jpeg"), "no image/jpeg"),
    "no image": ("texture", lambda c, b: c["textures"][0].update(source=1), "images[1] is referred to"),
    "uv": (
        "texture",
        lambda c, b: c["meshes"][0]["primitives"][0]["attributes"].pop("TEXCOORD_0"),
        "has no TEXCOORD_0",
    ),
    "normal": (
        "texture",
        lambda c, b: c["meshes"][0]["primitives"][0]["attributes"].update(NORMAL=0),
        "NORMAL is not of unit length",
    ),
}


@pytest.mark.parametrize("rule", BREAKS)
def test_a_broken_rule_is_named(files, rule, tmp_path):
    name, change, said = BREAKS[rule]
    broken = changed(files[name].read_bytes(), change)
    assert any(said in fault for fault in glb_faults(broken)), glb_faults(broken)
    (tmp_path / "broken.glb").write_bytes(broken)
    with pytest.raises(BadMesh, match=r"broken\.glb.* breaks the rules"):
        check_glb(tmp_path / "broken.glb")


@pytest.mark.parametrize("content", [b"", b"glTF", b"glTF" + bytes(40)])
def test_what_is_no_glb_is_a_fault_and_no_crash(content):
    assert len(glb_faults(content)) == 1


VALIDATE = """
const validator = require('gltf-validator'), fs = require('fs');
Promise.all(process.argv.slice(1).map(path => validator.validateBytes(new Uint8Array(fs.readFileSync(path)))))
  .then(reports => console.log(JSON.stringify(reports.map(report => report.issues))));
"""


def khronos(*paths: Path) -> list[dict[str, Any]]:
    """What Khronos's validator says of the files; its node package is found as node finds packages (NODE_PATH)."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    done = subprocess.run([node, "-e", VALIDATE, *map(str, paths)], capture_output=True, text=True, check=False)
    if "Cannot find module 'gltf-validator'" in done.stderr:
        pytest.skip(f"the node package gltf-validator is not installed (NODE_PATH={os.environ.get('NODE_PATH')})")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_khronos_validator_finds_no_error_and_no_warning(files):
    for issues in khronos(*files.values()):
        assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues


def test_khronos_validator_sees_what_we_call_broken(files, tmp_path):
    path = tmp_path / "broken.glb"
    path.write_bytes(changed(files["colours"].read_bytes(), BREAKS["bounds"][1]))
    assert khronos(path)[0]["numErrors"] > 0
