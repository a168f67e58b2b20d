"""The rasteriser, against ray casting and against shapes whose pictures are known."""

import math

import pytest
import torch
from einops import repeat
from torch.testing import assert_close

from core.cameras.poses import orbit
from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.render import raster
from core.render.raster import face_normals, interpolate, rasterize, render_mesh, vertex_normals
from core.types import Cameras, Mesh


def random_triangles(count: int, seed: int, spread: float = 0.5) -> Mesh:
    draw = torch.Generator().manual_seed(seed)
    vertices = (torch.rand(3 * count, 3, generator=draw) - 0.5) * 2 * spread
    return Mesh(vertices, torch.arange(3 * count).view(count, 3), torch.rand(3 * count, 3, generator=draw))


def ball(radius: float, rows: int = 48, columns: int = 96) -> Mesh:
    theta = torch.linspace(0, math.pi, rows)
    phi = torch.arange(columns) * (2 * math.pi / columns)
    ring = torch.stack([phi.cos(), phi.sin()], dim=-1)
    vertices = torch.cat(
        [_sin(theta)[:, None, None] * ring, repeat(theta.cos(), "r -> r c 1", c=columns)], dim=-1
    ).reshape(-1, 3)
    a = torch.arange((rows - 1) * columns).view(rows - 1, columns)
    b = a.roll(-1, dims=1)
    faces = torch.cat([torch.stack([a, a + columns, b + columns], -1), torch.stack([a, b + columns, b], -1)])
    return Mesh(vertices * radius, faces.reshape(-1, 3))


def _sin(theta: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros(1), theta[1:-1].sin(), torch.zeros(1)])  # the poles are points


def cast_rays(mesh: Mesh, cameras: Cameras, near: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nearest face (-1: none), its depth, and how clear the case is: every pixel's ray against every face."""
    rays = pixel_rays(cameras)
    origin, direction = rays.origins.double()[..., None, :], rays.directions.double()[..., None, :]
    direction = direction.expand(*direction.shape[:-2], len(mesh.faces), 3)
    a, b, c = (corner.expand_as(direction) for corner in mesh.vertices.double()[mesh.faces].unbind(1))
    normal = torch.linalg.cross(direction, c - a)
    determinant = ((b - a) * normal).sum(-1)
    u = ((origin - a) * normal).sum(-1) / determinant
    across = torch.linalg.cross(origin - a, b - a)
    v = (direction * across).sum(-1) / determinant
    forward = cameras.poses[:, :3, 2].double()[:, None, None, None]
    depth = ((c - a) * across).sum(-1) / determinant * (direction * forward).sum(-1)
    margin = torch.stack([u, v, 1 - u - v]).amin(0)  # to the nearest edge, in barycentrics
    depth = torch.where((margin >= 0) & (depth > near), depth, torch.inf)
    best, face = depth.min(-1)
    return torch.where(best.isfinite(), face, -1), best, margin.abs().amin(-1)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_pixel_sees_the_face_that_its_ray_hits_first(seed):
    mesh, cameras = random_triangles(12, seed), rig("syncdreamer", size=24)[torch.tensor([0, 5, 11])]
    seen = rasterize(mesh, cameras)
    face, depth, margin = cast_rays(mesh, cameras, raster.NEAR)
    clear = margin > 1e-4  # a pixel centre on an edge may go either way
    assert clear.float().mean() > 0.95
    assert torch.equal(seen.face_index[clear], face[clear])
    hit = clear & (face >= 0)
    assert hit.any() and torch.isinf(seen.depth[~seen.mask]).all()
    assert_close(seen.depth[hit].double(), depth[hit], rtol=1e-4, atol=1e-4)


def test_triangles_that_reach_behind_the_camera_are_drawn_right():
    mesh = random_triangles(6, seed=3, spread=3.0)
    cameras = rig("syncdreamer", size=24)[torch.tensor([2, 9])]
    seen = rasterize(mesh, cameras)
    face, depth, margin = cast_rays(mesh, cameras, raster.NEAR)
    depths = (cameras.world_to_camera[:, None, :3, :3] @ mesh.vertices[None, :, :, None])[..., 2, 0]
    depths = depths + cameras.world_to_camera[:, None, 2, 3]
    assert ((depths[:, mesh.faces] < 0).any(-1) & (depths[:, mesh.faces] > 0).any(-1)).any()
    clear = (margin > 1e-3) & ((depth - raster.NEAR).abs() > 1e-3)
    assert torch.equal(seen.face_index[clear], face[clear])


def test_a_mesh_behind_the_camera_is_not_seen():
    camera = Cameras(orbit(*torch.tensor([[0.0], [0.0], [1.5]])), rig("syncdreamer", size=16).intrinsics[:1], 16, 16)
    mesh = random_triangles(5, seed=0)
    behind = Mesh(mesh.vertices + torch.tensor([4.0, 0.0, 0.0]), mesh.faces)
    assert not rasterize(behind, camera).mask.any()


def test_a_sphere_is_seen_as_the_cone_that_touches_it():
    radius, distance = 0.4, 1.5
    cameras = rig("syncdreamer", size=96)[torch.tensor([0, 3])]
    mask = rasterize(ball(radius), cameras, cull_backfaces=True).mask
    rays = pixel_rays(cameras)
    nearest = torch.linalg.cross(rays.origins, rays.directions).norm(dim=-1)  # of the ray to the centre
    assert mask[nearest < 0.995 * radius].all() and not mask[nearest > radius].any()
    assert distance == pytest.approx(float(cameras.centers.norm(dim=-1)[0]))


def test_depth_is_measured_along_the_optical_axis():
    cameras = rig("syncdreamer", size=32)[:1]
    seen = rasterize(ball(0.3), cameras)
    points = cameras.centers[:, None, None] + pixel_rays(cameras).directions * (
        seen.depth / (pixel_rays(cameras).directions @ cameras.poses[0, :3, 2])
    ).unsqueeze(-1)
    assert_close(points[seen.mask].norm(dim=-1), torch.full((int(seen.mask.sum()),), 0.3), atol=2e-3, rtol=0)


def test_interpolation_is_perspective_correct():
    # The world position itself is a vertex value whose right answer is known at each pixel.
    mesh, cameras = random_triangles(4, seed=5), rig("syncdreamer", size=32)[:2]
    seen = rasterize(mesh, cameras)
    points = interpolate(mesh.vertices, mesh, seen)[seen.mask]
    rays = pixel_rays(cameras)
    offset = points - rays.origins[seen.mask]
    assert_close(torch.linalg.cross(offset, rays.directions[seen.mask]), torch.zeros_like(offset), atol=2e-5, rtol=0)


def test_culling_back_faces_changes_nothing_on_a_closed_mesh():
    cameras = rig("syncdreamer", size=48)[:4]
    mesh = ball(0.4, rows=12, columns=16)
    assert_close(render_mesh(mesh, cameras), render_mesh(mesh, cameras, cull_backfaces=True))


def test_adjacent_triangles_leave_no_crack():
    draw = torch.Generator().manual_seed(0)
    size = 12
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-0.45, 0.45, size)] * 2, indexing="ij"), dim=-1).reshape(-1, 2)
    vertices = torch.cat([torch.rand(size * size, 1, generator=draw) * 0.05, grid], dim=-1)
    a = torch.arange(size * size).view(size, size)[:-1, :-1].reshape(-1)
    faces = torch.cat([torch.stack([a, a + 1, a + size], -1), torch.stack([a + 1, a + size + 1, a + size], -1)])
    camera = Cameras(orbit(*torch.tensor([[0.0], [0.0], [1.5]])), rig("syncdreamer", size=128).intrinsics[:1], 128, 128)
    inner = rasterize(Mesh(vertices, faces), camera).mask[0, 50:78, 50:78]
    assert inner.all()


def test_the_number_of_fragments_held_at_once_does_not_matter(monkeypatch):
    mesh, cameras = random_triangles(20, seed=2), rig("syncdreamer", size=32)[:3]
    whole = rasterize(mesh, cameras)
    monkeypatch.setattr(raster, "NUM_FRAGMENTS_AT_ONCE", 500)
    pieces = rasterize(mesh, cameras)
    assert torch.equal(whole.face_index, pieces.face_index) and torch.equal(whole.depth, pieces.depth)


def test_supersampling_makes_soft_edges_and_keeps_the_colour():
    red = torch.tensor([0.8, 0.1, 0.1])
    mesh = ball(0.4)
    mesh = Mesh(mesh.vertices, mesh.faces, red.expand(len(mesh.vertices), 3))
    rgba = render_mesh(mesh, rig("syncdreamer", size=32)[:1], supersample=4, shading="none")[0]
    edge = (rgba[3] > 0) & (rgba[3] < 1)
    assert edge.any() and len(rgba[3].unique()) > 4
    assert_close(rgba[:3, rgba[3] > 0], red[:, None].expand(3, int((rgba[3] > 0).sum())), atol=1e-5, rtol=0)
    assert (rgba[:, rgba[3] == 0] == 0).all()


def test_lights_stand_still_in_the_world():
    # The same point of a matt surface has one colour, from wherever it is seen.
    mesh = ball(0.4)
    top = torch.tensor([0.0, 0.0, 0.4])
    views = render_mesh(mesh, rig("syncdreamer", size=64)[torch.tensor([0, 4, 9])], supersample=1)
    cameras = rig("syncdreamer", size=64)[torch.tensor([0, 4, 9])]
    at = cameras.intrinsics @ (cameras.world_to_camera[:, :3, :3] @ top + cameras.world_to_camera[:, :3, 3])[..., None]
    pixel = (at[:, :2, 0] / at[:, 2:, 0]).long()
    colors = torch.stack([view[:3, y, x] for view, (x, y) in zip(views, pixel.tolist(), strict=True)])
    assert_close(colors, colors[:1].expand_as(colors), atol=0.03, rtol=0)


def test_flat_shading_shows_facets_and_smooth_shading_hides_them():
    mesh, cameras = ball(0.4, rows=8, columns=10), rig("syncdreamer", size=48)[:1]
    colors = {
        shading: (render_mesh(mesh, cameras, supersample=1, shading=shading)[0, 0] * 1e4).round().unique().numel()
        for shading in ("flat", "smooth", "none")
    }
    assert colors["none"] == 2 < colors["flat"] <= len(mesh.faces) + 1 < colors["smooth"]


def test_normals_of_a_sphere_point_outwards():
    mesh = ball(0.5)
    used = torch.unique(mesh.faces)
    centers = mesh.vertices[mesh.faces].mean(1)
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    solid = torch.linalg.cross(b - a, c - a).norm(dim=-1) > 1e-6  # at a pole, half the triangles have no area
    assert ((face_normals(mesh) * centers).sum(-1)[solid] > 0.4).all()
    assert_close((vertex_normals(mesh) * mesh.vertices / 0.5).sum(-1)[used], torch.ones(len(used)), atol=0.02, rtol=0)


def test_an_empty_mesh_gives_an_empty_picture():
    mesh = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    rgba = render_mesh(mesh, rig("syncdreamer", size=8)[:2])
    assert rgba.shape == (2, 4, 8, 8) and (rgba == 0).all()
