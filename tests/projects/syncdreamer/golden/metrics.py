"""The official metrics of images and shapes, driven by the fixture `eval_metrics`."""

import pytest
import torch
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.images import composite
from core.metrics.images import psnr, psnr_in_single_precision, ssim_data_range
from core.metrics.shapes import chamfer, occupied, screen_affine_depth, visible_points, volume_iou, voxel_means
from core.types import Mesh
from tests.golden_fixture import load, named


@pytest.fixture(scope="module")
def golden_metrics():
    return load("syncdreamer", "eval_metrics")


def test_image_metrics_equal_the_official_ones(golden_metrics):
    _, tensors = golden_metrics
    count = len(tensors["psnr"])
    truth = torch.stack([tensors[f"gt_rgba_{index}"] for index in range(count)]).permute(0, 3, 1, 2).float() / 255
    prediction = torch.stack([tensors[f"pr_rgb_{index}"] for index in range(count)]).permute(0, 3, 1, 2).float() / 255
    assert_close(psnr_in_single_precision(prediction, composite(truth)), tensors["psnr"], atol=1e-5, rtol=0)
    assert_close(psnr(prediction, composite(truth)), tensors["psnr"], atol=1e-3, rtol=0)
    assert_close(ssim_data_range(prediction, composite(truth)), tensors["ssim"], atol=1e-5, rtol=0)


def synthetic(info):
    """The results for the two meshes that the fixture holds; the others need the published evaluation set."""
    (name,) = (name for name in info["results"] if name.startswith("synthetic"))
    return info["results"][name]


def mesh_of(tensors, name: str) -> Mesh:
    return Mesh(tensors[f"{name}_vertices"], tensors[f"{name}_faces"].long())


def test_volume_overlap_equals_the_official_one(golden_metrics):
    info, tensors = golden_metrics
    expected = synthetic(info)
    prediction, truth = mesh_of(tensors, "pr"), mesh_of(tensors, "gt")
    assert (int(occupied(prediction).sum()), int(occupied(truth).sum())) == (expected["vol_pr"], expected["vol_gt"])
    assert volume_iou(prediction, truth) == pytest.approx(expected["iou"], abs=1e-6)


def test_depth_maps_and_chamfer_distance_equal_the_official_ones(golden_metrics):
    info, tensors = golden_metrics
    expected = synthetic(info)
    drawn, masks = named(tensors, "gt_depth_view"), named(tensors, "gt_mask_view")
    cameras = rig("syncdreamer", size=len(next(iter(drawn.values()))))
    points = {}
    for name in ("pr", "gt"):
        depth = screen_affine_depth(mesh_of(tensors, name), cameras)
        points[name] = voxel_means(visible_points(depth, cameras), 0.01)
        if name == "gt":
            for view in drawn:
                both = (depth[view] > 0) & masks[view].bool()
                assert ((depth[view] > 0) != masks[view].bool()).float().mean() < 1e-3
                assert_close(depth[view][both], drawn[view][both], atol=1e-5, rtol=0)
    assert len(points["pr"]) == pytest.approx(expected["n_pr_points"], rel=0.01)
    assert len(points["gt"]) == pytest.approx(expected["n_gt_points"], rel=0.01)
    assert chamfer(points["pr"], points["gt"]) == pytest.approx(expected["chamfer"], rel=1e-3)
