"""Cameras, view embedding and geometry, driven by the fixture `camera`."""

import torch
from einops import rearrange

from core.cameras.poses import orbit
from core.types import Cameras
from projects.syncdreamer.geometry import depth_range, frustum_points, voxel_vertices, warp_coordinates
from tests.golden_fixture import load
from tests.projects.syncdreamer import tiny
from tests.projects.syncdreamer.golden.common import cameras_from, embedded_views, exact, image_size


def test_the_analytic_rig_has_the_published_cameras():
    info, data = load("syncdreamer", "camera")
    poses = orbit(data["azimuths_pkl"].double(), data["elevations_pkl"].double(), data["distances_pkl"].double())
    cameras = Cameras(poses, data["K"].double().expand(len(poses), 3, 3), image_size(data), image_size(data))
    difference = (cameras.world_to_camera[:, :3] - data["poses_pkl"]).abs().max()
    assert difference <= 1e-7 + info["analytic_pose_max_abs_diff"]


def test_view_embedding():
    _, data = load("syncdreamer", "camera")
    exact(embedded_views(data["azimuth_buffer"], data["elev_rad"]), data["view_embedding"])


def test_the_models_azimuths_are_the_published_buffer():
    _, data = load("syncdreamer", "camera")
    num_views = len(data["azimuth_buffer"])
    model = tiny.denoiser(num_views)
    exact(model.azimuths, data["azimuth_buffer"], 1e-6)
    exact(model.world_to_camera, data["poses_pkl"].float(), 1e-6)
    size = image_size(data)
    exact(model.cameras.scaled(size, size).intrinsics, data["K"].expand(num_views, 3, 3))


def test_warp_coordinates():
    info, data = load("syncdreamer", "camera")
    index, size = data["view_idx"], info["warp"]["input_size"]
    cameras = cameras_from(data["poses_pkl"].float()[index], data["K"].expand(len(index), 3, 3), size)
    vertices = voxel_vertices(info["warp"]["V"], info["warp"]["length"], like=cameras.poses)
    exact(warp_coordinates(vertices, cameras, info["warp"]["warp_size"]), data["warp_coords"])


def frustum_case():
    """Cameras of the frustum tensors, and both counts."""
    info, data = load("syncdreamer", "camera")
    index, target = data["view_idx"], info["target"]
    cameras = cameras_from(
        data["poses_pkl"].float()[index], data["K"].expand(len(index), 3, 3), target["input_image_size"]
    )
    return data, cameras, (target["volume_size"], target["depth_size"])


def assert_frustums(found, points, depths):
    exact(rearrange(found[0], "v d h w c -> v c d h w"), points)
    exact(found[1][:, None, :, None, None].expand_as(depths), depths)


def test_frustum_points():
    data, cameras, counts = frustum_case()
    near, far = data["target_depth"][:, 0, 0, 0, 0], data["target_depth"][:, 0, -1, 0, 0]
    assert_frustums(frustum_points(cameras, *counts, near, far), data["target_xyz"], data["target_depth"])
    # The model asks for the depths of a sphere around the origin; the fixture may have others.
    if torch.allclose((near + far) / 2, data["distances_pkl"][data["view_idx"]].to(near), atol=1e-6):
        exact(torch.stack(depth_range(cameras, (far - near)[0].item() / 2)), torch.stack([near, far]))


def test_depths_of_the_unit_sphere():
    data, cameras, counts = frustum_case()
    num_views = len(data["poses_pkl"])
    rig = cameras_from(data["poses_pkl"].float(), data["K"].expand(num_views, 3, 3), image_size(data))
    near, far = depth_range(rig, 1.0)
    exact(near[:, None], data["near_unit"])
    exact(far[:, None], data["far_unit"])
    # Without near and far the official code takes the unit sphere's; the model never does.
    found = frustum_points(cameras, *counts, *depth_range(cameras, 1.0))
    assert_frustums(found, data["target_xyz_auto"], data["target_depth_auto"])
