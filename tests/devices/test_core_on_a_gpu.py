"""What all systems share computes on a GPU, gradients too: fields, meshes, pictures, scores, fits, training."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from core import config as core_config
from core.cameras.rigs import rig
from core.fields.hashgrid import HashGrid
from core.fields.sdf import SDFNetwork, SurfaceColor
from core.fitting.fit import Fit
from core.fitting.pixels import Pixels
from core.fitting.turntable import look_through
from core.foreground import with_alpha
from core.mesh.clean import clean_mesh
from core.mesh.extract import extract_surface, sample_grid
from core.mesh.place import sphere, turned, unit_cube
from core.mesh.tetrahedra import kuhn_grid, marching_tetrahedra
from core.mesh.thin import thin
from core.metrics import colours, consistency, halves, images, janus, matches, shapes
from core.render.neus import NeuS
from core.render.raster import render_mesh
from core.training import run
from core.types import Mesh
from tests.devices.pretended import gpu_fabric
from tests.projects.benchmark.balls import ball_views
from tests.training import toy

CAMERAS = rig("orbit", size=32, num_views=4, elevation_deg=30.0, distance=1.5)


def ball(device="cpu") -> Mesh:
    mesh = sphere(0.3)
    return Mesh(mesh.vertices.to(device), mesh.faces.to(device), (mesh.vertices + 0.5).to(device))


def on(tensors, device) -> bool:
    return all(tensor.device == device for tensor in tensors)


@pytest.mark.parametrize("backend", ["torch", "plain"])
@pytest.mark.parametrize("count", [40, 0])
def test_the_hash_grid_and_its_own_gradients(backend, count, gpu):
    torch.manual_seed(0)
    grid = HashGrid(num_levels=5, log2_size=8, base_resolution=8, growth=1.5, backend=backend)
    points, found = torch.rand(count, 3), []
    for device in ("cpu", gpu):
        grid = grid.to(device)
        x = points.to(device).requires_grad_(True)
        features = grid(x)
        first = torch.autograd.grad(features.square().sum(), (x, grid.params), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), grid.params)
        with torch.no_grad():
            made = [features, *first, *second, grid(x.detach())]
        assert on(made, torch.device(device))
        found.append([tensor.detach().cpu() for tensor in made])
    assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


def test_meshes_are_extracted_cleaned_and_drawn(gpu):
    values = sample_grid(lambda points: points.norm(dim=-1), 12, 1.0, device=gpu, chunk=100)
    assert len(extract_surface(values, level=0.5, bound=1.0, inside_is_below=True, what="distance").faces) > 100
    grid = kuhn_grid(6)
    level = ((grid.vertices - 0.5).norm(dim=-1) - 0.3).to(gpu).requires_grad_(True)
    vertices, faces = marching_tetrahedra(grid.vertices.to(gpu), level, grid.tets.to(gpu))
    vertices.sum().backward()
    assert on((vertices, faces, level.grad), gpu)
    mesh, report = clean_mesh(ball(gpu))
    assert report.watertight and on((mesh.vertices, mesh.faces, mesh.colors), gpu)
    assert on((turned(unit_cube(mesh), 1.0).vertices,), gpu) and len(thin(mesh, 50).faces) <= 50
    for shading in ("smooth", "flat"):
        drawn = render_mesh(mesh, CAMERAS, shading=shading)
        assert on((drawn,), gpu)
        assert_close(drawn.cpu(), render_mesh(ball(), CAMERAS, shading=shading), rtol=0, atol=1e-4)


SCORES = {
    "psnr": lambda rgb, mask, cameras: images.psnr(rgb, rgb.roll(1, 0)),
    "psnr_in_single_precision": lambda rgb, mask, cameras: images.psnr_in_single_precision(rgb, rgb.roll(1, 0)),
    "ssim": lambda rgb, mask, cameras: images.ssim(rgb, rgb.roll(1, 0)),
    "flip": lambda rgb, mask, cameras: images.flip(rgb, rgb.roll(1, 0)),
    "mask_iou": lambda rgb, mask, cameras: images.mask_iou(mask, mask.roll(1, 0)),
    "colours": lambda rgb, mask, cameras: colours.colour_overlap(rgb[:2], mask[:2], rgb[2:], mask[2:]),
    "halves": lambda rgb, mask, cameras: halves.half_agreement(mask, cameras, grid=16),
    "janus": lambda rgb, mask, cameras: janus.janus(rgb, mask, cameras),
    "matches": lambda rgb, mask, cameras: matches.sift_matches(rgb),
    "white as alpha": lambda rgb, mask, cameras: with_alpha(rgb, "white")[0].cpu(),
    "alpha by itself": lambda rgb, mask, cameras: with_alpha(rgb, "auto")[0].cpu(),
}


@pytest.fixture(scope="module")
def views():
    rgba = render_mesh(ball(), CAMERAS)
    return rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:], rgba[:, 3]


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())
def test_pictures_are_scored_wherever_they_lie(score, views, gpu):
    found = score(*(tensor.to(gpu) for tensor in views), CAMERAS.to(gpu))
    assert_close(found, score(*views, CAMERAS), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_views_agree_wherever_they_lie(views, gpu):
    found = consistency.agreement(*(tensor.to(gpu) for tensor in views), CAMERAS.to(gpu)).score
    assert found == pytest.approx(consistency.agreement(*views, CAMERAS).score, abs=1e-4)


def test_matched_features_are_projected_back_wherever_the_pictures_lie(gpu):
    draw = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 24, generator=draw), (160, 160), mode="bicubic")
    pair, cameras = torch.cat([picture, picture.roll(3, -1)]).clamp(0, 1), rig("orbit", size=160, num_views=2)
    expected = matches.reprojection_error(pair, cameras)
    assert_close(matches.reprojection_error(pair.to(gpu), cameras.to(gpu)), expected)


def test_shapes_are_scored_wherever_they_lie(gpu):
    def scored(device):
        mesh, cameras = ball(device), CAMERAS.to(device)
        depth = shapes.screen_affine_depth(mesh, cameras)
        points = shapes.voxel_means(shapes.visible_points(depth, cameras), 0.05)
        assert on((depth, points), torch.device(device))
        return [
            shapes.chamfer(points, mesh.vertices),
            shapes.normal_consistency(mesh, mesh, num_points=100),
            shapes.volume_iou(mesh, mesh, resolution=8),
        ]

    assert scored(gpu) == pytest.approx(scored("cpu"), rel=1e-4)


def test_a_surface_is_fitted_to_views(tmp_path, gpu):
    torch.manual_seed(0)
    field = NeuS(
        sdf=SDFNetwork(feature_dim=4, hidden_dim=16, num_layers=2, skip_layers=(), num_frequencies=2),
        color=SurfaceColor(feature_dim=4, hidden_dim=8, num_layers=1),
        num_coarse=8, num_fine=8, num_rounds=2,
    ).to(gpu)  # fmt: skip
    pixels = Pixels.from_views(ball_views()).to(gpu)
    fit = Fit(steps=2, num_random=32, num_foreground=16, log_every=1, checkpoint_every=1)
    assert math.isfinite(fit(field, pixels, seed=0, folder=tmp_path)["loss"])
    shown = look_through(field, CAMERAS[0])
    mesh = field.surface(12, eyes=CAMERAS.centers)
    assert on((field.variance,), gpu) and shown.isfinite().all() and mesh.colors.isfinite().all()


@pytest.mark.parametrize("precision", ["32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_run_trains_validates_and_goes_on_from_its_checkpoint(precision, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(core_config, "ALLOWED", (*core_config.ALLOWED, "tests"))
    seen, losses = [], toy.ToyDenoiser.loss

    def loss(module, batch, generator):
        seen.extend([batch["picture"].device, generator.device, module.device])
        return losses(module, batch, generator)

    monkeypatch.setattr(run, "make_fabric", gpu_fabric)
    monkeypatch.setattr(toy.ToyDenoiser, "loss", loss)
    for steps in (4, 6):
        options = {"max_steps": steps, "precision": precision, "clip_norm": 0.5, "val_every": 2, "preview_every": 2}
        cfg = toy.config(Path(tmp_path / "run"))
        cfg["trainer"] |= options
        assert math.isfinite(run.run(cfg))
    assert {device.type for device in seen} == {"cuda"}
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == "step_00000006\n"
