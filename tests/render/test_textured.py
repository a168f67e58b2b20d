"""A texture is seen where its coordinates say."""

import torch
import trimesh
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.mesh.export import read_textured, write_mesh
from core.mesh.texture import TexturedMesh, bake_texture
from core.render.raster import render_mesh
from core.render.textured import looked_up, render_textured
from core.types import Mesh


def painted_box() -> Mesh:
    shape = trimesh.creation.box(extents=[0.3, 0.5, 0.7]).subdivide().subdivide()
    vertices = torch.from_numpy(shape.vertices).float()
    return Mesh(vertices, torch.from_numpy(shape.faces).long(), (vertices + 0.5).clamp(0, 1))


def test_texture_coordinates_count_from_the_lower_left_corner():
    texture = torch.zeros(3, 2, 2)
    texture[0, 0, 0], texture[1, 0, 1], texture[2, 1, 0] = 1, 1, 1  # red top left, green top right, blue bottom left
    uv = torch.tensor([[0.25, 0.75], [0.75, 0.75], [0.25, 0.25], [0.75, 0.25], [-1.0, 2.0]])
    assert_close(looked_up(texture, uv), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]))


def test_a_baked_texture_looks_like_the_vertex_colours_it_came_from():
    box = painted_box()
    cameras = rig("orbit", size=48, num_views=3, elevation_deg=20.0)
    seen = render_textured(bake_texture(box, size=256), cameras)
    expected = render_mesh(box, cameras, shading="none")
    assert_close(seen[:, 3], expected[:, 3])
    inside = expected[:, 3] == 1
    assert (seen[:, :3] - expected[:, :3]).abs().amax(dim=1)[inside].max() < 0.03


def test_a_textured_glb_comes_back_with_its_texture(tmp_path):
    textured = bake_texture(painted_box(), size=64)
    for name in ("mesh.glb", "mesh.obj"):
        write_mesh(tmp_path / name, textured)
        again = read_textured(tmp_path / name)
        assert isinstance(again, TexturedMesh)
        assert_close(again.texture, (textured.texture * 255).round() / 255)
        cameras = rig("orbit", size=32, num_views=2, elevation_deg=-10.0)
        assert (render_textured(again, cameras) - render_textured(textured, cameras)).abs().mean() < 2e-3
