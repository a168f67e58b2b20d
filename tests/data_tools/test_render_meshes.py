"""Meshes that are broken, or strange: a line for each that cannot be drawn, and the right picture of each that can."""

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from torch.testing import assert_close

from core.errors import BadMesh
from data_tools.render import surface
from data_tools.render.engines import render_cpu
from data_tools.render.surface import read_surface
from tests.data_tools.rendering import TINY, TRIANGLE, ball, refused, request, results


def test_broken_meshes_are_one_line_each_and_the_rest_goes_on(tmp_path, capsys):
    folder, out = tmp_path / "meshes", tmp_path / "out"
    folder.mkdir()
    ball(1e30).export(folder / "huge.glb")
    broken = trimesh.creation.box()
    broken.vertices[0] = np.nan
    broken.export(folder / "nan.glb")
    files = {
        "no-bytes.glb": "",
        "no-mesh.glb": "this is a letter, not a mesh",
        "no-mesh.obj": "nor is this",
        "points.obj": TRIANGLE,
        "flat.obj": TRIANGLE + "f 1 2 2\nf 1 1 1\n",
        "partly.obj": TRIANGLE + "f 1 2 2\nf 1 2 3\n",
        "index.obj": TRIANGLE + "f 1 2 9\n",
        "point.obj": "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n",
        "cut.glb": (folder / "huge.glb").read_bytes()[:3000],
        "untextured.obj": "mtllib gone.mtl\n" + TRIANGLE + "usemtl m\nf 1 2 3\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused([f"input={folder}", f"out={out}", *TINY, "rig=mvdream"], capsys)
    assert "10 of 12 inputs failed" in message
    lines = {Path(line["input"]).name: line for line in results(out)}
    good = {name for name, line in lines.items() if line["status"] == "ok"}
    assert good == {"huge.glb", "partly.obj"}
    assert lines["partly.obj"]["degenerate_faces"] == 1
    causes = {
        "nan.glb": "1 vertices that are NaN",
        "no-bytes.glb": "0 bytes",
        "no-mesh.glb": "'no-mesh.glb' is no .glb (binary glTF) file",
        "no-mesh.obj": "no faces",
        "points.obj": "no faces",
        "flat.obj": "all 2 faces are degenerate",
        "index.obj": "': there is no vertex",
        "point.obj": "degenerate",
        "cut.glb": "broken or no .glb mesh",
        "untextured.obj": "'gone.mtl' is missing",
    }
    for name, cause in causes.items():
        assert cause in lines[name]["error"] and "\n" not in lines[name]["error"], lines[name]["error"]
        assert not (out / Path(name).stem).exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRIANGLE + "f 1 2 9\n", "line 4, 'f 1 2 9': there is no vertex 9, only 3"),
        (TRIANGLE + "f 1 2 0\n", "line 4, 'f 1 2 0': there is no vertex 0"),
        (TRIANGLE + "f 1 2 q\n", "line 4, 'f 1 2 q': 'q' is no corner of a face"),
        (TRIANGLE + "f 1 2\n", "line 4, 'f 1 2': a face wants at least three corners"),
        ("v 0 0 0\nv 0 x 1\nv 0 0 1\nf 1 2 3\n", "line 2, 'v 0 x 1': a vertex wants three numbers"),
        ("v 0 0\nv 0 1\nv 1 1\nf 1 2 3\n", "line 1, 'v 0 0': a vertex wants three numbers"),
    ],
)
def test_a_broken_obj_is_told_by_its_line(tmp_path, text, words):
    (tmp_path / "broken.obj").write_text(text)
    with pytest.raises(BadMesh) as fault:
        read_surface(tmp_path / "broken.obj")
    assert f"mesh 'broken.obj' is broken: {words}" in str(fault.value) and "repair that line" in str(fault.value)


def test_an_object_seen_edge_on_is_told_from_one_that_stands_elsewhere(tmp_path, capsys):
    (tmp_path / "flat.obj").write_text("v -1 -1 0\nv 1 -1 0\nv 1 1 0\nf 1 2 3\n")
    arguments = [f"input={tmp_path / 'flat.obj'}", f"out={tmp_path / 'out'}", *TINY, "rig=orbit", "num_views=2"]
    message = refused([*arguments, "elevation_deg=0"], capsys)
    assert "'flat.obj': it is before the cameras but covers no pixel (it is 1 x 1 x 0 in world units" in message
    assert "elevation_deg=" in message and "normalise" not in message


def test_a_mesh_with_more_faces_than_the_limit_is_refused_with_the_numbers(tmp_path, monkeypatch):
    ball().export(tmp_path / "ball.ply")
    monkeypatch.setattr(surface, "MAX_FACES", 300)
    with pytest.raises(BadMesh, match=r"320 faces, more than the limit of 300"):
        read_surface(tmp_path / "ball.ply")


def test_a_texture_that_cannot_be_decoded_is_said(tmp_path):
    made = trimesh.creation.box()
    made.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), image=Image.new("RGB", (64, 64), (9, 9, 9)))
    made.export(tmp_path / "box.glb")
    whole = (tmp_path / "box.glb").read_bytes()
    start = whole.index(b"\x89PNG")
    (tmp_path / "box.glb").write_bytes(whole[:start] + b"\0" * 60 + whole[start + 60 :])
    found = read_surface(tmp_path / "box.glb")
    assert "embedded picture 0" in found.missing_textures[0] and not found.textures


@pytest.mark.parametrize("suffix", [".glb", ".ply", ".obj"])
@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_the_unit_of_a_mesh_changes_nothing_in_its_picture(tmp_path, suffix, scale):
    made = trimesh.creation.capsule(1.0, 0.4, count=[8, 8])
    made.visual = trimesh.visual.ColorVisuals(made)
    made.export(tmp_path / f"one{suffix}")
    made.apply_scale(scale)
    made.apply_translation(np.array([3.0, -2, 1]) * scale)
    (tmp_path / f"other{suffix}").write_bytes(export(made, suffix))
    one, other = (
        render_cpu(request(read_surface(tmp_path / f"{name}{suffix}"), shading="smooth")) for name in ("one", "other")
    )
    assert_close(one.depth, other.depth, rtol=0, atol=1e-4)
    assert_close(one.images, other.images, rtol=0, atol=0.02)
    assert (one.depth > 0).any()


def export(made: trimesh.Trimesh, suffix: str) -> bytes:
    """The file's bytes; an .obj with enough digits for small numbers."""
    digits = {"digits": 15} if suffix == ".obj" else {}
    content = made.export(file_type=suffix[1:], **digits)
    return content.encode() if isinstance(content, str) else content


def test_a_glb_whose_chunks_lie_about_their_lengths_is_one_line(tmp_path):
    whole = ball().export(file_type="glb")
    header = struct.unpack("<I", whole[12:16])[0]
    for name, content in (
        ("long.glb", whole[:12] + struct.pack("<I", 2**31) + whole[16:]),
        ("no-json.glb", whole[:20] + b"{" * header + whole[20 + header :]),
        ("no-binary.glb", whole[: 20 + header]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadMesh, match=r"broken or no \.glb mesh") as fault:
            read_surface(tmp_path / name)
        assert "\n" not in str(fault.value)


@pytest.mark.slow
def test_five_million_faces_are_drawn(tmp_path):
    count = 1582
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    u, v = (angle.ravel() for angle in np.meshgrid(angles, angles, indexing="ij"))
    ring = np.stack([(1 + 0.3 * np.cos(v)) * np.cos(u), (1 + 0.3 * np.cos(v)) * np.sin(u), 0.3 * np.sin(v)], axis=-1)
    row, column = (index.ravel() for index in np.indices((count, count)))
    a, b, c, d = ((row + i) % count * count + (column + j) % count for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    assert len(faces) > 5_000_000
    trimesh.Trimesh(ring, faces, process=False).export(tmp_path / "ring.ply")
    drawn = render_cpu(request(read_surface(tmp_path / "ring.ply"), size=64, views=1, supersample=1))
    assert 0.2 < (drawn.depth > 0).float().mean() < 0.5
    # The camera stands 20 degrees high at distance 1.5; the ring reaches half a unit towards it and away from it.
    assert 0.9 < drawn.depth[drawn.depth > 0].min() < 1.2 and 1.5 < drawn.depth.max() < 2.1
