"""Meshes of fitted fields have the colours of the views, at their vertices and in their textures."""

from dataclasses import replace

import pytest
import torch

from core.images import composite
from core.mesh.export import read_mesh
from core.metrics.images import psnr
from core.render.raster import render_mesh
from core.types import Mesh
from core.views import ViewSet, write_views
from projects.benchmark.assets import shrink
from projects.benchmark.reconstruct import main
from tests.projects.benchmark.balls import ball_views

SIZE = 48
SHORT = {
    "neus": ["fit.steps=250"],
    "nerf": ["fit.steps=600", "fit.num_random=64", "fit.num_foreground=64", "field.max_steps=96"],
}
OUTPUT = ["mesh.resolution=56", "mesh.texture_size=128", "turntable.num_frames=2", f"image.max_size={SIZE}"]


def likeness(mesh: Mesh, views: ViewSet) -> float:
    """Mean PSNR (dB) of the unlit mesh against the views, over white."""
    seen = composite(render_mesh(mesh, views.cameras, shading="none"))
    return psnr(seen, composite(views.images)).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["neus", "nerf"])
def test_a_mesh_looks_like_the_views_it_was_fitted_to(tmp_path, method):
    # Twice as large as it is fitted, so that edges are smooth; colours off 0 and 1, which take a sigmoid long to reach.
    views = ball_views(size=2 * SIZE)
    views = replace(views, images=torch.cat([0.2 + 0.6 * views.images[:, :3], views.images[:, 3:]], dim=1))
    write_views(tmp_path / "ball", views)
    out = tmp_path / "out"
    main([f"views={tmp_path / 'ball'}", f"out={out}", f"method={method}", *SHORT[method], *OUTPUT])
    for name in ("mesh.ply", "mesh.obj"):  # vertex colours; a texture
        mesh = read_mesh(out / name)
        assert likeness(mesh, shrink(views, SIZE)) > 27, name
        assert likeness(replace(mesh, colors=mesh.colors.flip(-1)), shrink(views, SIZE)) < 16, name  # red for blue
