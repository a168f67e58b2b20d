"""Which pixels the measures without the truth see: the prediction's, laid on the protocol's background once."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from core.images import read_image, write_image
from core.metrics import sfm
from core.metrics.consistency import agreement, consistency
from core.metrics.halves import half_agreement
from core.views import ViewSet, read_views, write_views
from projects.benchmark import alone
from projects.benchmark.alone import ColmapPoints, coherence, halves
from projects.benchmark.layout import Layout
from projects.benchmark.pairing import single
from projects.benchmark.pictures import Pictures
from projects.benchmark.protocol import Protocol
from tests.metrics.textured import textured_sphere

SIZE, NUM_VIEWS = 32, 8


@pytest.fixture
def soft(tmp_path) -> ViewSet:
    """A ball whose rim is half transparent over several pixels, written as the prediction and read back."""
    views = textured_sphere(size=SIZE, num_views=NUM_VIEWS)
    alpha = F.avg_pool2d(views.images[:, 3:], 7, 1, 3)
    images = torch.cat([views.images[:, :3].clamp(0.1, 0.6), alpha], dim=1)
    write_views(tmp_path / "pred" / "toy", ViewSet(images, views.cameras, "toy"))
    return read_views(tmp_path / "pred" / "toy")


def predicted(root: Path, background: float, **changes) -> Pictures:
    protocol = Protocol(name="test", what="a test", alone={"halves": halves}, background=background, **changes)
    return single(protocol, "toy", root / "pred", root / "gt")


def laid(views: ViewSet, background: float) -> torch.Tensor:
    rgb, alpha = views.images[:, :3], views.images[:, 3:]
    return rgb * alpha + background * (1 - alpha)


@pytest.fixture
def given_to_colmap(monkeypatch, tmp_path):
    """Runs a program in COLMAP's place that keeps the pictures it is given; returns these."""
    kept = tmp_path / "kept"
    monkeypatch.setattr(alone, "check_pycolmap", lambda: None)
    monkeypatch.setattr(sfm, "check_pycolmap", lambda: None)
    monkeypatch.setattr(sfm, "__file__", str(tmp_path / "sfm.py"))
    answer = '{"num_points": 3, "num_registered": 2, "error_pixels": 0.5}'
    program = f"import shutil, sys\nshutil.copytree(sys.argv[1] + '/images', {str(kept)!r})\nprint('{answer}')\n"
    (tmp_path / "colmap_job.py").write_text(program)

    def pictures(views: Pictures) -> torch.Tensor:
        measure = ColmapPoints()
        assert measure(views) == 3 and measure.note.startswith(f"2 of {len(views)} views")
        files = sorted(kept.iterdir())
        assert [file.name for file in files] == [f"{view:03d}.png" for view in range(len(views))]
        return (torch.stack([read_image(file) for file in files]) * 255).round().to(torch.uint8)

    return pictures


@pytest.mark.parametrize("background", [0.0, 0.5, 1.0])
def test_colmap_is_given_the_predictions_pixels_on_the_protocols_background(
    soft, given_to_colmap, tmp_path, background
):
    found = given_to_colmap(predicted(tmp_path, background))
    assert (found[:, 3] == 255).all()
    assert torch.equal(found[:, :3], (laid(soft, background) * 255).round().to(torch.uint8))


def test_colmap_is_given_opaque_pictures_as_they_are_whatever_mask_is_found_in_them(given_to_colmap, tmp_path):
    noise = torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images = 0.98 + 0.02 * noise  # a decoder's white, which the mask takes for background
    images[:, :, 8:-8, 8:-8] = noise[:, :, 8:-8, 8:-8]
    for view, image in enumerate(images):
        write_image(tmp_path / "pred" / "toy" / f"{view:03d}.png", image)
    views = predicted(tmp_path, 0.0, prediction=Layout(rig="syncdreamer"))
    assert (views.masks[:, :8] == 0).all()
    assert torch.equal(given_to_colmap(views)[:, :3], (images * 255).round().to(torch.uint8))


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_coherence_compares_colours_that_lie_on_the_protocols_background_once(soft, tmp_path, background):
    once = agreement(laid(soft, background), soft.images[:, 3], soft.cameras).score
    assert coherence(predicted(tmp_path, background)) == pytest.approx(once, abs=1e-6)
    if background == 1:
        assert once == pytest.approx(consistency(soft).score, abs=1e-6)


def test_halves_ask_for_silhouettes_only(soft, tmp_path):
    expected = half_agreement(soft.images[:, 3], soft.cameras)
    assert [halves(predicted(tmp_path, background)) for background in (0.0, 1.0)] == [expected] * 2


def test_pictures_brought_to_the_protocols_size_keep_their_one_background(soft, given_to_colmap, tmp_path):
    found = given_to_colmap(predicted(tmp_path, 0.0, size=SIZE // 2, resize="area"))
    expected = F.interpolate(laid(soft, 0.0), SIZE // 2, mode="area")
    assert torch.equal(found[:, :3], (expected * 255).round().to(torch.uint8))
    assert found.shape == (NUM_VIEWS, 4, SIZE // 2, SIZE // 2)
