"""engine=nvdiffrast: what is asked of it and what is made of its answer (anywhere), and it beside ours (on a GPU)."""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch.testing import assert_close

from core.cameras.rays import project
from core.cameras.rigs import rig
from core.render.cuda_raster import clip_space, rasterize_nvdiffrast
from core.render.raster import rasterize
from core.views import read_views
from data_tools.render.__main__ import main
from data_tools.render.engines import draw, render_cpu
from data_tools.render.maps import read_depth
from data_tools.render.surface import read_surface
from tests.data_tools.rendering import SMALL, ball, refused, request


class Context:
    """Stands for nvdiffrast's, which asks for a GPU."""

    def __init__(self, device=None):
        self.device = device


def brute_force(context, pos, tri, resolution, grad_db=True):
    """nvdiffrast's documented rasterize: every triangle at every pixel, in clip space, the least z/w in [-1, 1]."""
    assert isinstance(context, Context) and pos.dtype == torch.float32 and tri.dtype == torch.int32
    height, width = resolution
    x, y = (2 * (torch.arange(size) + 0.5) / size - 1 for size in (width, height))
    pixel = torch.stack([x.expand(height, width), y[:, None].expand(height, width), torch.ones(height, width)], -1)
    drawn = torch.zeros(len(pos), height, width, 4)
    for view, vertices in enumerate(pos.double()):
        corners = vertices[tri.long()]
        columns = corners[..., [0, 1, 3]].transpose(1, 2)
        solid = torch.linalg.det(columns).abs() > 1e-12
        q = torch.einsum("fij,hwj->fhwi", torch.linalg.inv(columns[solid]), pixel.double())
        weights = q / q.sum(-1, keepdim=True)
        z, w = ((weights * corners[solid][:, None, None, :, axis]).sum(-1) for axis in (2, 3))
        inside = (q >= -1e-9).all(-1) & (w > 0) & ((z / w).abs() <= 1)
        depth, nearest = torch.where(inside, z / w, torch.inf).min(0)
        weights = weights.gather(0, nearest[None, ..., None].expand(1, height, width, 3))[0]
        face = solid.nonzero()[:, 0][nearest]
        found = torch.stack([weights[..., 0], weights[..., 1], depth, face + 1.0], dim=-1)
        drawn[view] = torch.where(depth.isfinite()[..., None], found, 0.0).float()
    return drawn, torch.empty(0)


@pytest.fixture
def nvdiffrast(monkeypatch):
    """A module in nvdiffrast's place, replaced where it meets the GPU only."""
    package, module = ModuleType("nvdiffrast"), ModuleType("nvdiffrast.torch")
    module.rasterize, module.RasterizeCudaContext = brute_force, Context
    package.torch = module
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", module)
    monkeypatch.setattr("core.render.cuda_raster._contexts", {})


@pytest.mark.parametrize("name", ["syncdreamer", "zero123", "ouroboros"])
def test_clip_space_is_the_projection_in_halves_of_the_image(name):
    cameras = rig(name, size=64)
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    clip = clip_space(points, cameras)
    pixels, depth = project(points.expand(len(cameras), 50, 3), cameras)
    assert_close(clip[..., 3], depth)
    assert_close((clip[..., :2] / clip[..., 3:] + 1) / 2 * 64, pixels, rtol=0, atol=1e-3)
    z = clip[..., 2] / clip[..., 3]
    assert z.min() > -1 and z.max() < 1, "everything before the cameras is between its near and far planes"
    assert (z.argsort(-1) == depth.argsort(-1)).all()


def test_what_is_behind_the_near_plane_is_behind_its_clip_plane():
    camera = rig("mvdream", size=8)[:1]
    eye, forward = camera.poses[0, :3, 3], camera.poses[0, :3, 2]
    points = torch.stack([eye + forward * depth for depth in (-0.5, 0.005, 0.02, 1.0)])
    clip = clip_space(points, camera, near=0.01)[0]
    assert ((clip[:, 2] >= -clip[:, 3]) == torch.tensor([False, False, True, True])).all()


def test_its_answer_is_read_as_our_rasterisers(nvdiffrast, tmp_path):
    ball(subdivisions=1).export(tmp_path / "ball.ply")
    asked = request(read_surface(tmp_path / "ball.ply"), size=24, views=2)
    ours, its = (function(asked.surface.mesh, asked.cameras) for function in (rasterize, rasterize_nvdiffrast))
    same = ours.face_index == its.face_index
    assert same.float().mean() > 0.995 and its.mask.any() and not its.mask.all()
    assert_close(its.barycentrics[same], ours.barycentrics[same], rtol=0, atol=1e-4)
    assert_close(its.depth[same], ours.depth[same], rtol=0, atol=1e-5)


def test_the_drawing_around_it_is_the_one_around_our_rasteriser(nvdiffrast, tmp_path):
    made = trimesh.creation.box((1, 0.7, 0.5))
    made.visual = trimesh.visual.TextureVisuals(
        uv=made.vertices[:, :2] + 0.5,
        image=Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)),
    )
    made.export(tmp_path / "box.glb")
    asked = request(read_surface(tmp_path / "box.glb"), size=16, views=2, shading="smooth")
    ours, its = render_cpu(asked), draw(asked, rasterize_nvdiffrast)
    assert_close(its.images, ours.images, rtol=0, atol=1e-3)
    assert_close(its.depth, ours.depth, rtol=0, atol=1e-5)
    assert_close(its.normals, ours.normals, rtol=0, atol=1e-4)


def test_where_it_cannot_run_the_engine_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    ball().export(tmp_path / "ball.glb")
    arguments = [f"input={tmp_path}", f"out={tmp_path / 'out'}", *SMALL, "engine=nvdiffrast"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "nvdiffrast is not installed (environment.yml has its line); use engine=cpu" in refused(arguments, capsys)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "draws on a CUDA GPU, and torch finds none here; use engine=cpu" in refused(arguments, capsys)
    assert not (tmp_path / "out" / "ball").exists()


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("nvdiffrast") is None, reason="nvdiffrast is not installed")
def test_nvdiffrast_and_our_rasteriser_draw_the_same_views(tmp_path):
    thing = trimesh.util.concatenate([trimesh.creation.torus(1.0, 0.3), trimesh.creation.box((0.5, 0.8, 1.1))])
    thing.export(tmp_path / "thing.glb")
    shared = [f"input={tmp_path / 'thing.glb'}", "size=256", "depth=true", "num_views=4", "workers=1"]
    for engine in ("nvdiffrast", "cpu"):
        main([*shared, f"out={tmp_path / engine}", f"engine={engine}"])
    its, ours = (read_views(tmp_path / engine / "thing").images for engine in ("nvdiffrast", "cpu"))
    assert (its - ours).abs().mean() < 1e-3
    assert ((its[:, 3] > 0.5) != (ours[:, 3] > 0.5)).float().mean() < 1e-3
    depth, expected = (read_depth(tmp_path / engine / "thing") for engine in ("nvdiffrast", "cpu"))
    seen = (depth > 0) & (expected > 0)
    assert ((depth > 0) != (expected > 0)).float().mean() < 1e-3
    assert (depth - expected)[seen].abs().quantile(0.999) <= 0.0011  # a step of the file
