"""Meshes -> view sets: what is drawn is right, and stopping or processes change nothing."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch.testing import assert_close

from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.errors import UserError
from core.mesh.export import write_mesh
from core.types import Mesh
from core.views import TRANSFORMS, read_views, validate_views
from data_tools.render import make
from data_tools.render.__main__ import main
from data_tools.render.engines import Request, render_cpu, sample_texture
from data_tools.render.maps import read_depth, read_normals
from data_tools.render.surface import normalise, read_surface
from tests.data_tools.rendering import SMALL, TINY, ball, contents, refused, request, results, settings

ROOT = Path(__file__).parents[2]
CHICKEN = Path(os.environ.get("TURNTABLE_DATA", "/nonexistent")) / "gso_chicken"


@pytest.fixture
def meshes(tmp_path) -> Path:
    folder = tmp_path / "my möbel"
    folder.mkdir()
    ball(2.0).export(folder / "ball.glb")
    trimesh.creation.box((1, 2, 3)).export(folder / "stuhl ü.glb")
    trimesh.creation.torus(1.0, 0.3, major_sections=12, minor_sections=8).export(folder / "ring.glb")
    return folder


@pytest.mark.slow
def test_a_folder_of_meshes_becomes_view_sets_and_is_done_only_once(meshes, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [f"input={meshes}", f"out={out}", *TINY, "rig=zero123plus", "depth=true", "normals=true"]
    main(arguments)
    assert "3 objects rendered, 0 were there before" in capsys.readouterr().out
    for name in ("ball", "ring", "stuhl ü"):
        assert validate_views(out / name) == []
        assert (len(list((out / name / "depth").iterdir())), len(list((out / name / "normals").iterdir()))) == (6, 6)
        views = read_views(out / name)
        assert_close(views.cameras.poses, rig("zero123plus", size=24).poses)
        assert views.provenance["normalisation"]["kind"] == "unit_cube" and views.provenance["mesh"]["sha256"]
    before = contents(out)
    shutil.rmtree(out / "ring")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/images/*.png")}
    main(arguments)
    assert "1 objects rendered, 2 were there before" in capsys.readouterr().out
    assert contents(out) == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert [record["status"] for record in results(out)][3:] == ["skipped", "ok", "skipped"]
    assert "overwrite=true" in refused([*arguments, "distance=3"], capsys)
    main([f"input={meshes / 'ring.glb'}", *arguments[1:], "seed=1", "overwrite=true"])
    assert contents(out) == before and not list(out.glob(".tmp-*"))


@pytest.mark.slow
def test_two_processes_make_the_same_files_as_one(meshes, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        main(
            [f"input={meshes}", f"out={tmp_path / name}", "size=24", f"workers={workers}", "rig=random", "num_views=2"]
        )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    poses = [read_views(tmp_path / "one" / name).cameras.poses for name in ("ball", "ring")]
    assert not torch.allclose(*poses), "each object has cameras of its own"


def test_a_process_that_dies_fails_its_own_object_only(meshes, tmp_path, monkeypatch, capsys):
    def read(path, **options):
        if path.stem == "ring":
            os._exit(9)
        return read_surface(path, **options)

    monkeypatch.setattr(make, "read_surface", read)  # processes are forked
    message = refused([f"input={meshes}", f"out={tmp_path / 'out'}", "size=24", "workers=2", "rig=mvdream"], capsys)
    assert "1 of 3" in message and "out of memory?" in message
    one, ring, other = [line["status"] for line in results(tmp_path / "out")]
    assert ring == "failed"
    assert {one, other} <= {"ok", "skipped"}  # skipped: it was finished when the process died, before it was counted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("rig=nothing", "choose one of mvdream"),
        ("rig=ouroboros num_views=3", "num_views=3: rig=ouroboros does not read it; its cameras are fixed"),
        ("rig=zero123plus elevation_deg=3", "elevation_deg=3: rig=zero123plus does not read it; it reads distance"),
        ("rig=orbit distance=0.2", "the camera of view 0 stands inside 'far.glb': 0.2 from the world's origin"),
        ("elevation_deg=[0,20]", "error: elevation_deg=[0, 20]: expected a number"),
        ("engine=cycles", "choose one of cpu, nvdiffrast, blender"),
        ("engine=blender supersample=2", "supersample=2: engine=blender does not read it"),
        ("engine=blender shading=none", "shading=none: engine=blender does not read it"),
        ("blender.samples=8", "blender.samples=8: engine=cpu does not read it"),
        ("engine=blender blender.denoise=maybe", "choose one of True, False"),
        ("engine=blender blender.samples=0", "blender.samples=0: expected a whole number"),
        ("engine=nvdiffrast workers=2", "draws in one process"),
        ("engine=blender blender.executable=no-such-blender", "no such program"),
        ("size=4", "from 8 to 2048"),
        ("shading=phong", "choose one of smooth, flat, none"),
        ("input=nowhere", "give one mesh file"),
        ("normalise=none", "no view sees 'far.glb': it is not before the cameras; normalise=unit_cube"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(tmp_path, arguments, words, capsys):
    far = ball()
    far.apply_translation((0, 0, 50))
    far.export(tmp_path / "far.glb")
    assert words in refused([f"input={tmp_path}", f"out={tmp_path / 'out'}", *SMALL, *arguments.split()], capsys)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rig": "random", "elevation_deg": [40, -10]}, r"elevation_deg=\[40, -10\]: .* give \[-10, 40\]"),
        ({"rig": "random", "distance": [2.2, 1.5]}, r"give \[1.5, 2.2\]"),
        ({"rig": "random", "seed": -1}, "seed=-1: expected a whole number of at least 0"),
        ({"depth_unit": 0.01}, "depth_unit=0.01: it is read with depth=true only"),
        ({"part": "a/b"}, "part=a/b: expected the name of a folder"),
        ({"part": ".."}, "expected the name of a folder"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_any_work(changes, words):
    with pytest.raises(UserError, match=words):
        make.check_settings(settings(**changes))
    make.check_settings(settings(rig="random", elevation_deg=[-10, 40], depth=True, depth_unit=0.01, part="input"))


def test_a_texture_is_sampled_at_every_pixel(tmp_path):
    # One square facing +x whose four corners have the same colour: per vertex it would be all red.
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0] = 255
    picture[8:24, 8:24] = (0, 0, 255)
    picture[2:6, 2:6] = (0, 255, 0)  # towards the upper left corner
    Image.fromarray(picture).save(tmp_path / "paint.png")
    (tmp_path / "m.mtl").write_text("newmtl m\nKd 0 0 0\nmap_Kd paint.png\n")
    lines = ["mtllib m.mtl", "usemtl m", "v 0 0 0", "v 0 1 0", "v 0 1 1", "v 0 0 1"]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1", "f 1/1 2/2 3/3 4/4"]
    (tmp_path / "square.obj").write_text("\n".join(lines) + "\n")
    main([f"input={tmp_path / 'square.obj'}", f"out={tmp_path / 'out'}", "size=48", "supersample=2", "shading=none",
          "rig=orbit", "num_views=4", "workers=1"])  # fmt: skip
    views = read_views(tmp_path / "out" / "square")
    front = (views.images[0, :3] * views.images[0, 3]).permute(1, 2, 0)
    assert_close(front[24, 24], torch.tensor([0.0, 0, 1]))
    assert_close(front[24, 10], torch.tensor([1.0, 0, 0]), rtol=0, atol=0.01)
    assert front[8:16, 8:16, 1].max() > 0.8 and front[30:, :, 1].max() < 0.1 and front[:, 30:, 1].max() < 0.1
    (tmp_path / "paint.png").unlink()
    with pytest.raises(SystemExit):
        main([f"input={tmp_path / 'square.obj'}", f"out={tmp_path / 'missing'}", *TINY, "rig=mvdream"])
    main([f"input={tmp_path / 'square.obj'}", f"out={tmp_path / 'missing'}", *TINY, "rig=mvdream",
          "missing_textures=ignore"])  # fmt: skip
    assert read_views(tmp_path / "missing" / "square").provenance["missing_textures"] == ["'paint.png' is missing"]


def test_texture_coordinates_count_from_the_lower_left_and_repeat():
    texture = torch.arange(4, dtype=torch.uint8).view(2, 2, 1).expand(2, 2, 3) * 80
    uv = torch.tensor([[0.25, 0.75], [0.75, 0.75], [0.25, 0.25], [1.75, -0.75], [0.5, 0.5], [0.0, 0.75]])
    expected = torch.tensor([0.0, 80, 160, 240, 120, 40]) / 255
    assert_close(sample_texture(texture, uv.double())[:, 0], expected)


@pytest.mark.parametrize("suffix", [".glb", ".ply"])
def test_vertex_colours_of_our_own_files_come_back(tmp_path, suffix):
    made = trimesh.creation.icosphere(subdivisions=1)
    vertices = torch.from_numpy(made.vertices).float()
    ours = Mesh(vertices, torch.from_numpy(made.faces).long(), (vertices + 1) / 2)
    write_mesh(tmp_path / f"mesh{suffix}", ours)
    found = read_surface(tmp_path / f"mesh{suffix}").mesh
    order = [int((found.vertices - vertex).norm(dim=-1).argmin()) for vertex in vertices]
    assert_close(found.vertices[order].float(), vertices, rtol=0, atol=1e-6)
    assert_close(found.colors[order], ours.colors, rtol=0, atol=0.01)


def test_a_scene_is_drawn_with_every_node_in_its_place_and_colour(tmp_path):
    scene = trimesh.Scene()
    for x, color, mirror in ((-1, (1.0, 0, 0, 1), 1), (1, (0, 0, 1.0, 1), -1)):
        part = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=color)
        part.visual = trimesh.visual.TextureVisuals(material=material)
        place = np.diag([mirror, 1.0, 1, 1])
        place[0, 3] = x  # to the right of who looks along -z: +y here
        scene.add_geometry(part, transform=place)
    scene.export(tmp_path / "two.glb")
    found = read_surface(tmp_path / "two.glb")
    right = found.mesh.vertices[:, 1] > 0
    assert_close(found.mesh.colors[right], torch.tensor([[0.0, 0, 1]]).expand(int(right.sum()), 3))
    assert_close(found.mesh.vertices.amax(0), torch.tensor([0.5, 1.5, 0.5]).double(), rtol=0, atol=1e-6)
    a, b, c = found.mesh.vertices[found.mesh.faces].unbind(1)
    center = torch.stack([torch.zeros(len(a)), a[:, 1].sign(), torch.zeros(len(a))], -1)
    assert ((torch.linalg.cross(b - a, c - a) * (a - center)).sum(-1) > 0).all(), "mirrored parts face outwards too"
    left, middle, after = render_cpu(request(found, shading="none")).images[0, :, 16, [6, 16, 26]].T
    assert_close(torch.stack([left, after]), torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 1]]))
    assert middle[3] < 1


@pytest.mark.parametrize("kind", ["unit_cube", "unit_sphere", "none"])
def test_the_normalisation_is_stated_and_can_be_undone(tmp_path, kind):
    made = trimesh.creation.box((3, 1, 2)) if kind != "none" else trimesh.creation.box((0.3, 0.1, 0.2))
    made.apply_translation((7, -4, 0.3) if kind != "none" else (0.1, 0, 0))
    made.export(tmp_path / "box.ply")
    main([f"input={tmp_path / 'box.ply'}", f"out={tmp_path / 'out'}", *TINY, f"normalise={kind}", "rig=mvdream"])
    stated = json.loads((tmp_path / "out" / "box" / TRANSFORMS).read_text())["normalisation"]
    before = read_surface(tmp_path / "box.ply")
    after, how = normalise(before, kind)
    assert stated == how.to_json() | {"up": "z"}
    offset, scale = torch.tensor(stated["offset"]).double(), stated["scale"]
    assert_close(after.mesh.vertices.double() / scale - offset, before.mesh.vertices, rtol=0, atol=1e-6)
    assert_close(how.undo(how.apply(before.mesh.vertices)), before.mesh.vertices, rtol=1e-14, atol=1e-14)
    vertices = after.mesh.vertices
    if kind == "unit_cube":
        assert_close(vertices.amax(0), torch.tensor([0.5, 1 / 6, 1 / 3]))
    elif kind == "unit_sphere":
        assert_close(vertices.norm(dim=-1), torch.full((len(vertices),), 0.5))


def test_depth_and_normals_of_a_ball_are_those_of_the_formula(tmp_path):
    ball(3.0, subdivisions=4).export(tmp_path / "ball.glb")
    main([f"input={tmp_path / 'ball.glb'}", f"out={tmp_path / 'out'}", "size=64", "supersample=1", "rig=mvdream",
          "depth=true", "normals=true", "depth_unit=0.0001", "workers=1"])  # fmt: skip
    folder = tmp_path / "out" / "ball"
    cameras, depth, normals = read_views(folder).cameras, read_depth(folder), read_normals(folder)
    rays = pixel_rays(cameras)
    middle = -(rays.origins * rays.directions).sum(-1)
    inside = 0.25 - (rays.origins + middle[..., None] * rays.directions).square().sum(-1)
    hit = rays.origins + rays.directions * (middle - inside.clamp(min=0).sqrt())[..., None]
    forward = cameras.poses[:, :3, 2]
    expected = torch.einsum("vhwc,vc->vhw", hit - rays.origins, forward)
    clear = inside > 0.04  # at the rim the ball's facets show
    assert ((depth > 0) == (inside > 0)).float().mean() > 0.99
    assert (depth - expected)[clear].abs().max() < 2e-3
    opengl = torch.tensor([1.0, -1, -1])
    towards = torch.einsum("vcd,vdhw->vchw", cameras.poses[:, :3, :3] * opengl, normals)
    assert_close(towards.permute(0, 2, 3, 1)[clear], hit[clear] * 2, rtol=0, atol=0.02)
    assert (normals[:, 2][clear] > 0).all()


def test_edges_are_antialiased_and_keep_the_objects_colour(tmp_path):
    ball(subdivisions=3).export(tmp_path / "ball.ply")
    image = render_cpu(request(read_surface(tmp_path / "ball.ply"), supersample=4)).images[0]
    edge = (image[3] > 0.1) & (image[3] < 0.9)
    assert edge.sum() > 20
    assert_close(image[:3, edge], (torch.tensor([200.0, 30, 30]) / 255)[:, None].expand(3, int(edge.sum())))


@pytest.mark.parametrize("shading", ["smooth", "flat"])
def test_shading_does_not_depend_on_which_way_faces_wind(tmp_path, shading):
    made = ball()
    made.export(tmp_path / "out.ply")
    trimesh.Trimesh(made.vertices, made.faces[:, ::-1], vertex_colors=made.visual.vertex_colors, process=False).export(
        tmp_path / "in.ply"
    )
    out, turned = (
        render_cpu(request(read_surface(tmp_path / f"{name}.ply"), shading=shading)) for name in ("out", "in")
    )
    assert_close(out.images, turned.images, rtol=0, atol=1e-4)
    assert_close(out.normals, turned.normals, rtol=0, atol=1e-4)


def test_files_of_one_name_get_folders_of_their_own(tmp_path):
    for name in ("chair/model.ply", "table/model.ply", "vase.ply"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        ball(subdivisions=0).export(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").touch()
    items = make.find_items(str(tmp_path / "**" / "*"), tmp_path / "out")
    assert [item.folder.name for item in items] == ["chair_model.ply", "table_model.ply", "vase"]


@pytest.mark.skipif(not CHICKEN.is_dir(), reason="no gso_chicken in TURNTABLE_DATA")
def test_the_chicken_is_drawn_where_syncdreamers_blender_drew_it():
    found, how = normalise(read_surface(CHICKEN / "chicken-mesh" / "meshes" / "model.obj"), "unit_cube")
    angle = -math.radians(270)  # SyncDreamer's table: after normalisation, about z by minus this
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    turned = replace(found, mesh=replace(found.mesh, vertices=found.mesh.vertices @ turn.T))
    views = torch.tensor([0, 5, 10])
    cameras = rig("syncdreamer", size=256)[views]
    options = {"supersample": 2, "shading": "none"}
    ours = render_cpu(Request(Path(), turned, how, cameras, True, False, options))
    for view, image, depth in zip(views.tolist(), ours.images, ours.depth, strict=True):
        stored = np.array(Image.open(CHICKEN / "chicken-gt" / f"{view:03d}-depth.png")).astype(np.float64)
        true_depth = torch.from_numpy(stored / 65535 * 1.8 + 0.6)
        true_mask = (true_depth > 0.63) & (true_depth < 2.37)
        alpha = torch.from_numpy(np.array(Image.open(CHICKEN / "chicken-gt" / f"{view:03d}.png"))[..., 3] > 127)
        for mine, true in ((depth > 0, true_mask), (image[3] > 0.5, alpha)):
            assert (mine & true).sum() / (mine | true).sum() >= 0.98
        both = true_mask & (depth > 0)
        assert (true_depth - depth)[both].abs().mean() < 1e-3
