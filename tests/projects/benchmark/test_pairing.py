"""What happens to pictures before they are compared: background, size, matching, zoom, crop; faults are said."""

from pathlib import Path

import pytest
import torch

from core.cameras.rigs import rig
from core.errors import BadImage, BadViewSet
from core.images import write_image
from core.metrics.images import psnr
from core.views import ViewSet, write_views
from projects.benchmark.layout import Layout
from projects.benchmark.pairing import box_of, extent, pair, single, zoom_factor, zoomed
from projects.benchmark.pictures import Pictures, read
from projects.benchmark.protocol import Protocol
from tests.golden_fixture import load

SIZE = 48


def protocol(**changes) -> Protocol:
    return Protocol(**({"name": "test", "what": "a test", "images": {"PSNR": psnr}} | changes))


def squares(*sides: int, at: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """Per view a gray square of that side around the middle, moved by `at` (down, right); transparent elsewhere."""
    images = torch.zeros(len(sides), 4, SIZE, SIZE)
    for image, side in zip(images, sides, strict=True):
        top, left = (SIZE // 2 - side // 2 + shift for shift in at)
        image[:3, top : top + side, left : left + side] = 0.4
        image[3, top : top + side, left : left + side] = 1
    return images


def pictures(images: torch.Tensor) -> Pictures:
    rgb = images[:, :3] * images[:, 3:] + 1 - images[:, 3:]
    return Pictures("test", list(range(len(images))), rgb, images[:, 3])


def both(tmp_path: Path, made: torch.Tensor, true: torch.Tensor, **changes) -> tuple[Pictures, Pictures]:
    for folder, images in (("pred", made), ("gt", true)):
        views = ViewSet(images, rig("syncdreamer", size=images.shape[-1], num_views=len(images)), "toy")
        write_views(tmp_path / folder / "toy", views, overwrite=True)
    return pair(protocol(**changes), "toy", tmp_path / "pred", tmp_path / "gt")


def test_a_true_rendering_is_read_as_the_official_loader_of_viewfusion_reads_it(tmp_path):
    _, data = load("viewfusion", "gso_pose")
    rgba = data["rgba"].permute(2, 0, 1).float() / 255
    write_image(tmp_path / "000.png", rgba)
    official = protocol(compositing="cut", size=256, resize="bilinear")
    found = read(Layout(), tmp_path, official, None).images[0]
    # Its loader cuts to 8 bits where ours rounds: at most one level.
    assert (found * 255 - data["cond_u8"].float()).abs().max() <= 1
    over = read(Layout(), tmp_path, protocol(size=256, resize="bilinear"), None).images[0]
    assert (over * 255 - data["real_u8"].float()).abs().max() <= 2
    assert (over - found).abs().max() > 0.1


@pytest.mark.parametrize("background", [0.0, 0.5, 1.0])
def test_both_lie_on_the_protocols_background(tmp_path, background):
    made, true = both(tmp_path, squares(20), squares(20), background=background)
    assert made.images[0, :, 0, 0].tolist() == pytest.approx([background] * 3)
    assert torch.equal(made.images, true.images) and torch.equal(made.masks, true.masks)


def test_pictures_of_another_size_are_averaged_down_or_refused_never_enlarged_in_silence(tmp_path):
    true = squares(20)
    large = true.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    made, target = both(tmp_path, large, true, size=SIZE, resize="area")
    assert torch.allclose(made.images, target.images, atol=1 / 255)
    with pytest.raises(BadViewSet, match="96 x 96 pixels, the protocol wants 48 x 48"):
        both(tmp_path, large, true, size=SIZE)
    with pytest.raises(BadViewSet, match="nothing is enlarged"):
        both(tmp_path, true, large, size=2 * SIZE, resize="area")


def test_extents_are_the_longer_sides_of_the_silhouettes():
    images = squares(20, 10, 0)
    images[1, 3, 24, 10:40] = 1
    assert extent(images[:, 3]).tolist() == [20, 30, 0]


def test_zoom_undoes_a_wrong_scale_and_leaves_a_right_one_alone(tmp_path):
    true = squares(24, 24, 24)
    made = pictures(squares(12, 12, 16))
    assert zoom_factor(made, pictures(true)) == 2
    assert ((zoomed(made, 2.0).masks[0] > 0.5) == (true[0, 3] > 0.5)).all()
    same, target = both(tmp_path, true, true, alignment="zoom")
    assert torch.equal(same.images, target.images)
    wrong, target = both(tmp_path, squares(12, 12, 12), true)
    fixed, _ = both(tmp_path, squares(12, 12, 12), true, alignment="zoom")
    assert psnr(fixed.images, target.images).min() > psnr(wrong.images, target.images).max() + 5


def test_a_shift_is_not_forgiven_by_zoom_and_nothing_to_align_is_said(tmp_path):
    shifted, target = both(tmp_path, squares(24, at=(4, 4)), squares(24), alignment="zoom")
    assert psnr(shifted.images, target.images)[0] < 20
    noise = torch.ones(1, 4, SIZE, SIZE)
    noise[:, :3, 0, 0] = 0.98  # not of one colour, yet no object
    with pytest.raises(BadImage, match="no object was found"):
        both(tmp_path, noise, squares(24), alignment="zoom")


def test_a_crop_is_the_same_window_around_the_true_object_for_both(tmp_path):
    true, made = squares(20, at=(6, 0)), squares(20, at=(0, 0))
    assert box_of(pictures(true), 1.2) == (SIZE // 2 - 10 + 6 - 2, SIZE // 2 - 12, 24)
    cut, target = both(tmp_path, made, true, crop=1.2)
    assert cut.images.shape == target.images.shape == (1, 3, 24, 24)
    assert target.masks.sum() == 400 and cut.masks.sum() == 20 * 16
    # The whole picture is mostly background, which agrees: cropped, the same fault weighs more.
    whole, goal = both(tmp_path, made, true)
    gain = psnr(whole.images, goal.images) - psnr(cut.images, target.images)
    assert gain.item() > 4
    beyond, _ = both(tmp_path, squares(20), squares(20), crop=4.0)
    assert beyond.images.shape[-1] == 80 and beyond.images[0, :, 0, 0].tolist() == [1, 1, 1]
    with pytest.raises(BadImage, match="nothing to crop to"):
        both(tmp_path, made, squares(0), crop=1.0)


@pytest.mark.parametrize(("fault", "words"), [("empty", "one colour"), ("constant", "one colour")])
def test_a_prediction_of_nothing_is_no_number(tmp_path, fault, words):
    made = squares(0, 0) if fault == "empty" else torch.full((2, 4, SIZE, SIZE), 0.5)
    with pytest.raises(BadImage, match=words):
        both(tmp_path, made, squares(20, 20))


def test_an_opaque_picture_has_the_mask_that_the_protocol_finds(tmp_path):
    opaque = squares(20)
    opaque[:, :3] = opaque[:, :3] * opaque[:, 3:] + 1 - opaque[:, 3:]
    opaque[:, 3] = 1
    made, true = both(tmp_path, opaque, squares(20))
    assert torch.equal(made.masks, true.masks)
    everything, _ = both(tmp_path, opaque, squares(20), mask="none", crop=8.0)
    assert everything.masks.sum() == SIZE**2


def test_a_fault_is_said_to_be_in_the_truth_or_in_the_prediction(tmp_path):
    both(tmp_path, squares(20, 20), squares(20, 20))
    (tmp_path / "gt" / "toy" / "images" / "001.png").write_bytes(b"not a picture")
    with pytest.raises(BadViewSet, match=r"^true views: .*view 1: .*001.png"):
        pair(protocol(), "toy", tmp_path / "pred", tmp_path / "gt")
    both(tmp_path, squares(20, 20), squares(20, 20))
    (tmp_path / "pred" / "toy" / "images" / "001.png").write_bytes(b"not a picture")
    with pytest.raises(BadViewSet, match=r"^predicted views: .*view 1: .*001.png"):
        pair(protocol(), "toy", tmp_path / "pred", tmp_path / "gt")
    with pytest.raises(BadViewSet, match=r"^predicted views: .*view 1: .*001.png"):
        single(protocol(), "toy", tmp_path / "pred", tmp_path / "gt")
    both(tmp_path, squares(20, 20), squares(20, 20))
    (tmp_path / "gt" / "toy" / "transforms.json").unlink()
    with pytest.raises(BadViewSet, match=r"^true views: .*holds neither transforms.json nor pictures"):
        pair(protocol(), "toy", tmp_path / "pred", tmp_path / "gt")
    for view in range(2):
        write_image(tmp_path / "gt" / "toy" / f"{view:03d}.png", squares(20)[0])
    with pytest.raises(BadViewSet, match=r"^true views: toy: cameras are needed"):
        pair(protocol(match="camera", azimuths_deg=[0.0]), "toy", tmp_path / "pred", tmp_path / "gt")


def test_two_files_of_one_number_and_a_view_that_is_not_there_are_said(tmp_path):
    for name in ("1.png", "001.png"):
        write_image(tmp_path / "pred" / "toy" / name, squares(20)[0])
    with pytest.raises(BadViewSet, match="have one number"):
        read(Layout(), tmp_path / "pred" / "toy", protocol(), None)
    write_image(tmp_path / "gt" / "toy" / "001.png", squares(20)[0])
    (tmp_path / "pred" / "toy" / "001.png").unlink()
    pair(protocol(), "toy", tmp_path / "pred", tmp_path / "gt")
    write_image(tmp_path / "gt" / "toy" / "002.png", squares(20)[0])
    with pytest.raises(BadViewSet, match="view 2 is not there: 1 views"):
        pair(protocol(), "toy", tmp_path / "pred", tmp_path / "gt")
    with pytest.raises(BadViewSet, match="the protocol wants view 7"):
        pair(protocol(views=[7]), "toy", tmp_path / "pred", tmp_path / "gt")
