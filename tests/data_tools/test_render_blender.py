"""engine=blender: what is asked of Blender and what it leaves, and (slow) real Blender beside our rasteriser."""

import importlib.util
import math
import os
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.errors import BadMesh
from core.srgb import to_linear
from core.views import read_views
from data_tools.render.__main__ import main
from data_tools.render.blender import BLENDER_FROM_GLTF, find_blender, object_matrix, render_blender
from data_tools.render.engines import Request, render_cpu
from data_tools.render.maps import read_depth, read_normals
from data_tools.render.surface import normalise, read_surface
from tests.data_tools.rendering import SMALL, ball, refused, results

CHICKEN = Path(os.environ.get("TURNTABLE_DATA", "/nonexistent")) / "gso_chicken"
QUICK = {"executable": None, "samples": 4, "denoise": False, "threads": 1, "supersample": 1, "shading": "flat"}
HAS_BLENDER = importlib.util.find_spec("bpy") is not None or shutil.which("blender") is not None
real = pytest.mark.skipif(not HAS_BLENDER, reason="neither the bpy package (make test-slow) nor a blender program")


def test_blender_puts_a_file_where_our_reader_puts_it(tmp_path):
    made = trimesh.creation.box((1, 2, 3))
    made.apply_translation((4, 5, 6))
    for name, up, imported in (
        ("a.glb", "auto", BLENDER_FROM_GLTF),
        ("a.ply", "auto", np.eye(3)),
        ("a.ply", "y", np.eye(3)),
    ):
        made.export(tmp_path / name)
        normalised, how = normalise(read_surface(tmp_path / name, up=up), "unit_sphere")
        asked = Request(tmp_path / name, normalised, how, rig("mvdream", size=8), True, True, {})
        matrix = object_matrix(asked)
        placed = (made.vertices @ imported.T) @ matrix[:3, :3].T + matrix[:3, 3]
        ours = normalised.mesh.vertices.double().numpy()
        assert max(np.abs(ours - vertex).sum(1).min() for vertex in placed) < 1e-6
        assert np.linalg.det(matrix[:3, :3]) > 0


def test_without_blender_the_engine_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ball().export(tmp_path / "ball.glb")
    message = refused([f"input={tmp_path}", f"out={tmp_path / 'out'}", *SMALL, "engine=blender"], capsys)
    assert "neither the bpy package nor a blender program on PATH" in message
    (tmp_path / "blender").touch(mode=0o755)
    assert find_blender(None)[0] == str(tmp_path / "blender")


def test_what_a_blender_process_leaves_becomes_a_view_set(tmp_path, capsys):
    # A stand-in that speaks the job's language: a white square at depth 1, its normal towards +z of the world.
    program = tmp_path / "blender"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys\n"
        "if '--python-expr' in sys.argv: print('found 9.9 False'); sys.exit()\n"
        "import numpy as np\nfrom PIL import Image\n"
        "job = json.load(open(sys.argv[-1]))\n"
        "if 'bad' in job['mesh']: print('Error: cannot open'); sys.exit(1)\n"
        "w, h = job['size']\n"
        "assert abs(job['lenses'][0] - 35) < 1e-5 and job['sensor'] == 32 and len(job['poses']) == 4\n"
        "rgba = np.zeros((h, w, 4), np.uint8); rgba[8:16, 8:16] = 255\n"
        "maps = np.zeros((h, w, 5), np.float32); maps[8:16, 8:16] = (1, 0, 0, 1, 1)\n"
        "for view in range(len(job['poses'])):\n"
        "    Image.fromarray(rgba).save(f\"{job['out']}/{view:03d}.png\")\n"
        "    np.save(f\"{job['out']}/{view:03d}.npy\", maps)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    ball().export(tmp_path / "ball.glb")
    ball().export(tmp_path / "bad.glb")
    arguments = [f"input={tmp_path}/*.glb", f"out={tmp_path / 'out'}", *SMALL, "rig=mvdream", "engine=blender"]
    arguments += [f"blender.executable={program}", "depth=true", "normals=true"]
    assert "this Blender 9.9 was built without; give blender.denoise=false" in refused(arguments, capsys)
    message = refused([*arguments, "blender.denoise=false"], capsys)
    assert "1 of 2" in message and "Error: cannot open" in message
    depth, normals = read_depth(tmp_path / "out" / "ball"), read_normals(tmp_path / "out" / "ball")
    assert read_views(tmp_path / "out" / "ball").provenance["rendered_by"] == "Blender 9.9"
    assert_close(depth[:, 8:16, 8:16], torch.ones(4, 8, 8))
    assert (depth > 0).sum() == 4 * 64
    tilt = math.radians(15)
    expected = torch.tensor([0, math.cos(tilt), math.sin(tilt)])
    assert_close(normals[0, :, 10, 10], expected, rtol=0, atol=0.01)


def test_a_blender_that_does_not_start_is_said_before_any_work(tmp_path, capsys):
    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\necho 'libSM.so.6: cannot open shared object file' >&2\nexit 127\n")
    program.chmod(0o755)
    ball().export(tmp_path / "ball.glb")
    arguments = [
        f"input={tmp_path}",
        f"out={tmp_path / 'out'}",
        *SMALL,
        "engine=blender",
        f"blender.executable={program}",
    ]
    message = refused(arguments, capsys)
    assert "libSM.so.6: cannot open shared object file (exit code 127)" in message
    assert not (tmp_path / "out" / "ball").exists()


def overlap(one: Bool[Tensor, "views h w"], other: Bool[Tensor, "views h w"]) -> float:
    """The worst view's IoU."""
    return ((one & other).flatten(1).sum(1) / (one | other).flatten(1).sum(1)).min().item()


def both(path: Path, rig_name: str, *, size: int, views: list[int], up: str = "auto", kind: str = "unit_cube"):
    """Blender's rendering and ours of one file."""
    found, how = normalise(read_surface(path, up=up), kind)
    asked = Request(path, found, how, rig(rig_name, size=size)[torch.tensor(views)], True, True, QUICK)
    return render_blender(asked), render_cpu(asked)


def thing() -> trimesh.Scene:
    """Nothing about it is symmetric, it is not centred, and its parts have places of their own."""
    scene = trimesh.Scene()
    for index, (part, place) in enumerate(
        (
            (trimesh.creation.box((2, 1, 0.5)), (5, 1, -2)),
            (trimesh.creation.cone(0.6, 1.5, sections=24), (5.5, 1.2, -1.5)),
            (trimesh.creation.icosphere(subdivisions=2, radius=0.4), (4, 2, -2)),
        )
    ):
        turn = trimesh.transformations.rotation_matrix(0.3 * index, (1, 2, 3))
        turn[:3, 3] = place
        scene.add_geometry(part, transform=turn)
    return scene


@real
@pytest.mark.slow
def test_a_folder_of_meshes_through_real_blender_agrees_with_our_rasteriser(tmp_path, capsys):
    folder = tmp_path / "my möbel"
    folder.mkdir()
    thing().export(folder / "ein ding.glb")
    trimesh.creation.box((1, 2, 3)).export(folder / "stuhl ü.glb")
    trimesh.creation.torus(1.0, 0.3, major_sections=24, minor_sections=12).export(folder / "花環.glb")
    shared = [f"input={folder}", "size=256", "num_views=3", "depth=true", "depth_unit=0.0001", "normals=true"]
    by_blender = [*shared, f"out={tmp_path / 'b'}", "engine=blender", "blender.samples=4", "blender.denoise=false"]
    before = os.times()
    main(by_blender)
    by_children = sum(os.times()[2:4]) - sum(before[2:4])
    assert sum(record["cpu_seconds"] for record in results(tmp_path / "b")) > 0.5 * by_children > 0
    assert "3 objects rendered" in capsys.readouterr().out
    main([*shared, f"out={tmp_path / 'c'}", "workers=1", "supersample=1", "shading=flat"])
    for name in ("ein ding", "stuhl ü", "花環"):
        blender, ours = read_views(tmp_path / "b" / name), read_views(tmp_path / "c" / name)
        assert blender.provenance["rendered_by"].startswith("Blender ")
        assert overlap(blender.images[:, 3] > 0.5, ours.images[:, 3] > 0.5) >= 0.99
        depth, expected = (read_depth(tmp_path / engine / name) for engine in "bc")
        seen = (depth > 0) & (expected > 0)
        assert overlap(depth > 0, expected > 0) >= 0.99
        error = (depth - expected)[seen].abs()
        assert error.mean() < 2e-5 and error.quantile(0.999) < 2e-4
        turned = (read_normals(tmp_path / "b" / name) - read_normals(tmp_path / "c" / name)).norm(dim=1)[seen]
        assert turned.mean() < 0.01
    main(by_blender)
    assert "0 objects rendered, 3 were there before" in capsys.readouterr().out
    assert [record["status"] for record in results(tmp_path / "b")][3:] == ["skipped"] * 3


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "rig_name", "up", "kind"),
    [
        (".glb", "zero123", "auto", "unit_cube"),
        (".glb", "mvdream", "z", "unit_cube"),
        (".obj", "ouroboros", "y", "unit_sphere"),
        (".ply", "zero123plus", "auto", "unit_cube"),
        (".ply", "random", "y", "unit_sphere"),
    ],
)
def test_every_rig_and_format_stands_in_blender_where_it_stands_here(tmp_path, suffix, rig_name, up, kind):
    path = tmp_path / f"thing{suffix}"
    (thing() if suffix == ".glb" else thing().to_mesh()).export(path)
    blender, ours = both(path, rig_name, size=96, views=[1, 2], up=up, kind=kind)
    assert overlap(blender.depth > 0, ours.depth > 0) >= 0.99
    seen = (blender.depth > 0) & (ours.depth > 0)
    assert (blender.depth - ours.depth)[seen].abs().quantile(0.999) < 1e-4
    assert_close(blender.images[:, 3] > 0.5, blender.depth > 0)


def sheen(blender: Float[Tensor, "views 4 h w"], ours: Float[Tensor, "views 4 h w"]) -> tuple[float, float, float]:
    """The line that leads from our unlit colours to Blender's, in linear light, and what is left of it on average.

    Under a sky of radiance 0.5 a matt convex object shines with half its colour, and a varnish adds a constant.
    """
    solid = (blender[:, 3] > 0.99) & (ours[:, 3] > 0.99)
    x, y = (to_linear(image.movedim(1, -1)[solid][:, :3]).flatten() for image in (ours, blender))
    design = torch.stack([x, torch.ones_like(x)], dim=1)
    slope, offset = torch.linalg.lstsq(design, y[:, None]).solution[:, 0].tolist()
    return slope, offset, (y - slope * x - offset).abs().mean().item()


def painted(kind: str, folder: Path) -> Path:
    """A ball whose every place has another colour, as three kinds of file."""
    made = trimesh.creation.icosphere(subdivisions=4)
    uv = (made.vertices[:, 1:] + 1) / 2
    y, x = np.meshgrid(np.linspace(1, 0, 64), np.linspace(0, 1, 64), indexing="ij")
    picture = Image.fromarray((np.stack([x, y, (np.sin(9 * x) * np.sin(9 * y)) ** 2], -1) * 255).astype(np.uint8))
    if kind == "vertices.ply":
        made.visual.vertex_colors = ((made.vertices + 1) * 127).astype(np.uint8)
    elif kind == "texture.glb":
        matt = trimesh.visual.material.PBRMaterial(baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
        made.visual = trimesh.visual.TextureVisuals(uv=uv, material=matt)
    else:
        made.visual = trimesh.visual.TextureVisuals(uv=uv, image=picture)
    made.export(folder / kind)
    return folder / kind


@real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texture.glb", "texture.obj", "vertices.ply"])
def test_blender_shows_a_files_colours_where_we_show_them(tmp_path, kind, monkeypatch):
    monkeypatch.setitem(QUICK, "shading", "none")
    monkeypatch.setitem(QUICK, "samples", 16)
    blender, ours = both(painted(kind, tmp_path), "syncdreamer", size=96, views=[0, 5])
    slope, offset, rest = sheen(blender.images, ours.images)
    assert 0.44 < slope < 0.52 and 0 <= offset < 0.05 and rest < 0.012


@real
@pytest.mark.slow
def test_a_missing_texture_that_may_be_ignored_is_not_drawn_in_magenta(tmp_path, monkeypatch):
    monkeypatch.setitem(QUICK, "denoise", True)  # as Cycles does by default; here, so that one test does
    path = painted("texture.obj", tmp_path)
    for picture in tmp_path.glob("*.png"):
        picture.unlink()
    assert read_surface(path).missing_textures
    image = both(path, "syncdreamer", size=48, views=[0])[0].images[0]
    red, green, blue = image[:3, image[3] > 0.99].mean(1).tolist()
    assert red > 0.2 and abs(red - green) < 0.02 and abs(red - blue) < 0.02


@real
@pytest.mark.slow
def test_an_object_that_blender_sees_elsewhere_is_one_line(tmp_path):
    ball().export(tmp_path / "ball.glb")
    thing().export(tmp_path / "thing.glb")
    found, how = normalise(read_surface(tmp_path / "thing.glb"), "unit_cube")
    asked = Request(tmp_path / "ball.glb", found, how, rig("mvdream", size=16), False, False, QUICK)
    with pytest.raises(
        BadMesh, match=r"Blender sees an object from .* our reader one from .*; use engine=cpu"
    ) as fault:
        render_blender(asked)
    assert "\n" not in str(fault.value)


@real
@pytest.mark.slow
@pytest.mark.skipif(not CHICKEN.is_dir(), reason="no gso_chicken in TURNTABLE_DATA")
def test_our_blender_draws_the_chicken_where_syncdreamers_drew_it():
    path = CHICKEN / "chicken-mesh" / "meshes" / "model.obj"
    found, how = normalise(read_surface(path), "unit_cube")
    cameras = rig("syncdreamer", size=256)[torch.tensor([0, 5])]
    angle = math.radians(270)  # SyncDreamer's table turns the object by minus this about z: the cameras by this
    back = torch.eye(4)
    back[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    cameras = replace(cameras, poses=back @ cameras.poses)
    drawn = render_blender(Request(path, found, how, cameras, True, False, QUICK))
    for view, image, depth in zip((0, 5), drawn.images, drawn.depth, strict=True):
        stored = np.array(Image.open(CHICKEN / "chicken-gt" / f"{view:03d}-depth.png")).astype(np.float64)
        true_depth = torch.from_numpy(stored / 65535 * 1.8 + 0.6)
        true_mask = (true_depth > 0.63) & (true_depth < 2.37)
        alpha = torch.from_numpy(np.array(Image.open(CHICKEN / "chicken-gt" / f"{view:03d}.png"))[..., 3] > 127)
        assert overlap((depth > 0)[None], true_mask[None]) >= 0.98
        assert overlap((image[3] > 0.5)[None], alpha[None]) >= 0.98
        assert (true_depth - depth)[true_mask & (depth > 0)].abs().mean() < 1e-4
