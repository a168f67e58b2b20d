"""Cameras: rigs, conversions, rays and embeddings."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from core.cameras import (
    RIGS,
    camera_matrix_embedding,
    check_poses,
    from_opengl,
    look_at,
    orbit,
    pixel_rays,
    pluecker_embedding,
    polar_embedding,
    project,
    rig,
    spherical,
    to_opengl,
    unproject,
)
from core.cameras.poses import from_world_to_camera, swap_world_up
from core.cameras.rays import most_facing
from core.errors import BadCamera, BadRequest

ANGLES = st.floats(-math.pi, math.pi, allow_nan=False)


@given(azimuth=ANGLES, elevation=st.floats(-1.5, 1.5), distance=st.floats(0.5, 5))
@settings(max_examples=30, deadline=None)
def test_spherical_inverts_orbit(azimuth, elevation, distance):
    given_ = torch.tensor([azimuth, elevation, distance], dtype=torch.float64)
    pose = orbit(*given_[:, None])
    found = spherical(pose[:, :3, 3])
    assert_close(torch.stack([found[0].cos(), found[0].sin()]), torch.stack([given_[0:1].cos(), given_[0:1].sin()]))
    assert_close(torch.cat(found[1:]), given_[1:])


@given(azimuth=ANGLES, elevation=st.floats(-1.5, 1.5))
@settings(max_examples=30, deadline=None)
def test_orbit_is_look_at_the_origin(azimuth, elevation):
    pose = orbit(*torch.tensor([[azimuth], [elevation], [1.5]], dtype=torch.float64))
    eye = pose[:, :3, 3]
    assert_close(look_at(eye, torch.zeros_like(eye)), pose, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", sorted(RIGS))
def test_every_rig_faces_the_origin_and_sees_it_in_the_middle(name):
    cameras = rig(name, size=64)
    check_poses(cameras.poses, where=name)
    pixels, depth = project(torch.zeros(len(cameras), 1, 3), cameras)
    assert_close(pixels, torch.full_like(pixels, 32.0), rtol=0, atol=1e-3)
    assert_close(depth[:, 0], cameras.centers.norm(dim=-1), rtol=0, atol=1e-5)


def test_syncdreamer_rig_is_sixteen_views_thirty_degrees_high():
    cameras = rig("syncdreamer", size=256)
    azimuth, elevation, distance = spherical(cameras.centers)
    assert len(cameras) == 16
    assert_close(elevation, torch.full((16,), math.pi / 6))
    assert_close(distance, torch.full((16,), 1.5))
    assert_close(azimuth[1], torch.tensor(math.pi / 8))
    assert_close(cameras.intrinsics[0], torch.tensor([[280.0, 0, 128], [0, 280, 128], [0, 0, 1]]))


def test_zero123plus_rig_is_six_views_two_elevations_and_thirty_degrees_wide():
    cameras = rig("zero123plus", size=320)
    azimuth, elevation, _ = spherical(cameras.centers)
    assert_close(torch.rad2deg(azimuth) % 360, torch.tensor([30.0, 90, 150, 210, 270, 330]))
    assert_close(torch.rad2deg(elevation), torch.tensor([20.0, -10, 20, -10, 20, -10]))
    fov = 2 * torch.atan(160 / cameras.intrinsics[:, 0, 0])
    assert_close(torch.rad2deg(fov), torch.full((6,), 30.0))


def test_up_in_the_world_is_up_in_the_image():
    cameras = rig("syncdreamer", size=64)
    low, high = (project(torch.tensor([[0.0, 0.0, z]]).expand(16, 1, 3), cameras)[0] for z in (0.0, 0.2))
    assert (high[..., 1] < low[..., 1]).all()


def test_unknown_rig_lists_the_known_ones():
    with pytest.raises(BadRequest, match="syncdreamer"):
        rig("synkdreamer", size=64)


def test_opengl_conversion_is_its_own_inverse():
    poses = rig("random", size=64).poses
    assert torch.equal(from_opengl(to_opengl(poses)), poses)
    assert_close(to_opengl(poses)[:, :3, 2], -poses[:, :3, 2])


def test_world_to_camera_round_trip():
    cameras = rig("zero123", size=64)
    assert_close(from_world_to_camera(cameras.world_to_camera), cameras.poses, rtol=0, atol=1e-6)
    assert_close(from_world_to_camera(cameras.world_to_camera[:, :3]), cameras.poses, rtol=0, atol=1e-6)


def test_swapping_the_worlds_up_axis_round_trips():
    poses = rig("random", size=64).poses
    there = swap_world_up(poses, y_up_to_z_up=True)
    assert_close(swap_world_up(there, y_up_to_z_up=False), poses)


def test_projecting_unprojected_pixels_returns_them():
    cameras = rig("random", size=64, num_views=3)
    pixels, depth = torch.rand(3, 50, 2) * 64, torch.rand(3, 50) + 0.5
    found, found_depth = project(unproject(pixels, depth, cameras), cameras)
    assert_close(found, pixels, rtol=0, atol=1e-3)
    assert_close(found_depth, depth)


def test_rays_pass_through_the_pixels_they_start_from():
    cameras = rig("random", size=8, num_views=2)
    rays = pixel_rays(cameras)
    points = (rays.origins + 1.3 * rays.directions).flatten(1, 2)
    pixels, _ = project(points, cameras)
    assert_close(pixels[0, :3], torch.tensor([[0.5, 0.5], [1.5, 0.5], [2.5, 0.5]]), rtol=0, atol=1e-4)
    assert_close(rays.directions.norm(dim=-1), torch.ones(2, 8, 8))


def test_resizing_a_camera_moves_no_ray():
    cameras = rig("random", size=8, num_views=2)
    points = torch.rand(2, 5, 3) - 0.5
    assert_close(project(points, cameras.scaled(16, 24))[0], project(points, cameras)[0] * torch.tensor([2.0, 3.0]))


def test_a_surface_point_is_looked_at_by_the_eye_it_faces_or_from_outside():
    eyes = torch.tensor([[3.0, 0, 0], [0, 3.0, 0], [0, 0, 3.0]])
    points = torch.tensor([[1.0, 0, 0], [0, 0.5, 0], [0, 0, -1.0]])
    normals = torch.tensor([[1.0, 0, 0], [0.1, 0.9, 0.1], [0, 0, -1.0]])  # the last point faces no eye
    expected = torch.tensor([[-1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]])
    assert_close(most_facing(points, normals, eyes), expected)


def test_pluecker_moment_does_not_depend_on_the_point_of_the_line():
    cameras = rig("random", size=4, num_views=2)
    rays, embedding = pixel_rays(cameras), pluecker_embedding(cameras)
    further = torch.linalg.cross(rays.origins + 0.7 * rays.directions, rays.directions)
    assert_close(embedding[:, :3], further.permute(0, 3, 1, 2), rtol=0, atol=1e-5)


def test_camera_matrix_embedding_has_a_unit_translation():
    embedding = camera_matrix_embedding(rig("zero123", size=64).poses).reshape(-1, 4, 4)
    assert_close(embedding[:, :3, 3].norm(dim=-1), torch.ones(12))


def test_polar_embedding_of_no_movement():
    zero = torch.zeros(())
    assert_close(polar_embedding(zero, zero, zero), torch.tensor([0.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p[2].fill_(float("nan")), "view 2 contains NaN"),
        (lambda p: p[1, :3, :3].mul_(2), "view 1 is no rotation"),
        (lambda p: p[3, :3, 0].mul_(-1), "view 3 mirrors"),
        (lambda p: p[0, 3].fill_(0.5), "view 0 has the last row"),
    ],
)
def test_a_broken_pose_is_refused_with_its_index(damage, words):
    poses = rig("syncdreamer", size=64).poses.clone()
    damage(poses)
    with pytest.raises(BadCamera, match=words):
        check_poses(poses, where="a test")
