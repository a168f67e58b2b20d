"""Files that other programs open: the same shape and colours come back, by our reader and by trimesh's."""

import errno
import json
import signal
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

from core.errors import BadMesh, BadOutput
from core.mesh.export import read_mesh, write_mesh, y_up_to_z_up, z_up_to_y_up
from core.mesh.texture import bake_texture
from core.mesh.unwrapping import unwrap
from core.srgb import to_linear, to_srgb
from core.types import Mesh


@pytest.fixture
def box() -> Mesh:
    """A subdivided box, painted by position, not symmetric in any axis."""
    shape = trimesh.creation.box(extents=[0.2, 0.5, 0.9]).subdivide().subdivide()
    vertices = torch.from_numpy(np.asarray(shape.vertices, dtype=np.float32)) + torch.tensor([0.1, 0.0, -0.05])
    colors = (vertices + 0.5).clamp(0, 1)
    return Mesh(vertices, torch.from_numpy(np.asarray(shape.faces, dtype=np.int64)), colors)


@pytest.mark.parametrize("suffix", [".glb", ".ply"])
def test_vertex_colours_and_shape_survive(box, tmp_path, suffix):
    write_mesh(tmp_path / f"mesh{suffix}", box)
    again = read_mesh(tmp_path / f"mesh{suffix}")
    assert_close(again.vertices, box.vertices, atol=1e-6, rtol=0)
    assert_close(again.faces, box.faces)
    # trimesh hands the linear colours of a .glb over in 8 bits
    convert = to_linear if suffix == ".glb" else torch.clone
    assert_close(convert(again.colors), convert(box.colors), atol=1 / 255, rtol=0)


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_baked_texture_shows_the_vertex_colours(box, tmp_path, suffix):
    write_mesh(tmp_path / f"mesh{suffix}", bake_texture(box, size=128))
    again = read_mesh(tmp_path / f"mesh{suffix}")
    assert_close(again.vertices.amin(0), box.vertices.amin(0), atol=1e-5, rtol=0)
    assert_close(again.vertices.amax(0), box.vertices.amax(0), atol=1e-5, rtol=0)
    assert len(again.faces) == len(box.faces)
    difference = (again.colors - (again.vertices + 0.5)).abs()
    assert difference.mean() < 0.01 and difference.max() < 0.05


def test_a_texture_can_be_painted_from_a_function(box):
    textured = bake_texture(box, size=64, color_at=lambda points, _: torch.full_like(points, 0.25))
    assert_close(textured.texture, torch.full((3, 64, 64), 0.25))


def test_glb_is_y_up_and_its_vertex_colours_are_linear(box, tmp_path):
    path = tmp_path / "mesh.glb"
    write_mesh(path, box)
    loaded = trimesh.load(path, force="mesh", skip_materials=True)  # another reader, which converts nothing
    extents = loaded.bounds[1] - loaded.bounds[0]
    assert extents == pytest.approx([0.5, 0.9, 0.2], abs=1e-5)  # x (right) was y, y (up) was z, z (front) was x
    stored = torch.from_numpy(loaded.visual.vertex_colors[:, :3].astype(np.float32)) / 255
    assert_close(stored, to_linear(box.colors), atol=1 / 255, rtol=0)
    assert loaded.volume > 0


def test_glb_follows_the_container_format(box, tmp_path):
    write_mesh(tmp_path / "mesh.glb", bake_texture(box, size=32))
    data = (tmp_path / "mesh.glb").read_bytes()
    magic, version, length = struct.unpack("<III", data[:12])
    assert (magic, version, length) == (0x46546C67, 2, len(data))
    size, kind = struct.unpack("<II", data[12:20])
    content = json.loads(data[20 : 20 + size])
    assert kind == 0x4E4F534A and size % 4 == 0
    binary_size, kind = struct.unpack("<II", data[20 + size : 28 + size])
    assert kind == 0x004E4942 and binary_size >= content["buffers"][0]["byteLength"] > 0
    for view in content["bufferViews"]:
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= binary_size
    assert set(content["extensionsUsed"]) == {"KHR_materials_unlit"}


def test_colour_spaces_and_axes_are_inverses():
    values = torch.linspace(0, 1, 101)
    assert_close(to_srgb(to_linear(values)), values, atol=1e-6, rtol=0)
    assert to_linear(torch.tensor(0.5)).item() == pytest.approx(0.2140, abs=1e-4)
    points = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert_close(y_up_to_z_up(z_up_to_y_up(points)), points)
    assert torch.linalg.det(z_up_to_y_up(torch.eye(3))).item() == pytest.approx(1.0)  # a rotation, not a mirror


def test_what_cannot_be_written_is_refused_and_leaves_nothing(box, tmp_path):
    with pytest.raises(BadMesh, match="unknown mesh format"):
        write_mesh(tmp_path / "mesh.stp", box)
    with pytest.raises(BadMesh, match="texture"):
        write_mesh(tmp_path / "mesh.obj", box)
    with pytest.raises(BadMesh, match="not finite"):
        write_mesh(tmp_path / "mesh.ply", Mesh(box.vertices * float("nan"), box.faces))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput):
        write_mesh(tmp_path / "file" / "mesh.ply", box)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("content", [b"", b"glTF but not really", b"ply\nformat ascii 1.0\n"])
def test_broken_files_are_named(tmp_path, content):
    for suffix in (".glb", ".ply", ".obj"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(content)
        with pytest.raises(BadMesh, match="broken"):
            read_mesh(path)


def test_a_surface_that_cannot_be_unwrapped_is_told(box):
    broken = Mesh(box.vertices, torch.full_like(box.faces, len(box.vertices)), box.colors)
    with pytest.raises(BadMesh, match=r"xatlas cannot unwrap this surface of \d+ faces \(.*\)"):
        unwrap(broken.vertices.numpy(), broken.faces.numpy(), size=32, padding=1)


def test_a_full_temporary_folder_is_told(box, monkeypatch):
    def full(*args, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(BadOutput, match=r"No space left on device.*set TMPDIR"):
        unwrap(box.vertices.numpy(), box.faces.numpy(), size=32, padding=1)


def test_a_signal_ends_the_unwrapping_and_leaves_nothing_behind(box, tmp_path, monkeypatch):
    slow, folder, children = tmp_path / "python", tmp_path / "temporary", []
    slow.write_text("#!/bin/sh\nexec sleep 60\n")  # in xatlas's place, which would be busy as long
    slow.chmod(0o755)
    folder.mkdir()

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            children.append(self)

    def stop(number, frame):
        raise SystemExit(143)  # as core.app answers SIGTERM

    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(SystemExit):
            unwrap(box.vertices.numpy(), box.faces.numpy(), size=32, padding=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    (child,) = children
    assert child.returncode == -signal.SIGKILL and not list(folder.iterdir())
