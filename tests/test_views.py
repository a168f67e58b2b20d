import copy
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from core.cameras.rigs import rig
from core.errors import BadCamera, BadOutput, BadRequest, BadViewSet
from core.images import write_image
from core.types import Cameras
from core.views import ViewSet, read_views, validate_views, write_views


def view_set(num_views: int = 3, size: tuple[int, int] = (6, 8), seed: int = 0) -> ViewSet:
    """8-bit noise seen by cameras with random orthonormal poses, each with its own lens."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    images = torch.randint(0, 256, (num_views, 4, height, width), generator=g).float() / 255
    q, _ = torch.linalg.qr(torch.randn(num_views, 3, 3, generator=g))
    q = q * torch.linalg.det(q)[:, None, None]
    poses = torch.eye(4).repeat(num_views, 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = q, torch.randn(num_views, 3, generator=g)
    k = torch.eye(3).repeat(num_views, 1, 1)
    k[:, 0, 0], k[:, 1, 1] = torch.rand(2, num_views, generator=g) * 100 + 1
    k[:, :2, 2] = torch.rand(num_views, 2, generator=g) * 8
    return ViewSet(images, Cameras(poses, k, width, height), "thing", "a red cube", {"seed": seed})


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 5),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(0, 2**20),
    st.text(max_size=8),
    st.none() | st.text(max_size=20),
)
def test_a_written_view_set_is_read_back_bit_for_bit(tmp_path_factory, num_views, size, seed, name, caption):
    views = view_set(num_views, size, seed)
    views = ViewSet(views.images, views.cameras, name or "x", caption, {"seed": seed, "nested": {"a": [1, None, "ü"]}})
    folder = tmp_path_factory.mktemp("views") / "set"
    write_views(folder, views)
    read = read_views(folder)
    assert torch.equal(read.images, views.images)
    assert torch.equal(read.cameras.poses, views.cameras.poses)
    assert torch.equal(read.cameras.intrinsics, views.cameras.intrinsics)
    assert (read.name, read.caption, read.provenance) == (views.name, views.caption, views.provenance)
    assert validate_views(folder) == []


def test_the_file_holds_opengl_axes(tmp_path):
    """The middle camera of a ring stands on +x and looks along -x: in OpenGL its z axis points to +x, its y axis up."""
    cameras = rig("orbit", size=4, num_views=1)
    write_views(tmp_path / "set", ViewSet(torch.zeros(1, 4, 4, 4), cameras, "x"))
    pose = torch.tensor(json.loads((tmp_path / "set/transforms.json").read_text())["frames"][0]["transform_matrix"])
    expected = torch.tensor([[0, 0, 1, 1.5], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    assert_close(pose, expected, atol=1e-6, rtol=0)


def test_views_are_laid_on_white_unless_told():
    views = view_set()
    assert_close(views.rgb(), views.images[:, :3] * views.images[:, 3:] + 1 - views.images[:, 3:])
    assert_close(views.rgb(0.0), views.images[:, :3] * views.images[:, 3:])


@pytest.fixture
def folder(tmp_path):
    write_views(tmp_path / "set", view_set())
    return tmp_path / "set"


def damaged(folder, change) -> str:
    """The message about a view set after `change(transforms)`."""
    transforms = json.loads((folder / "transforms.json").read_text())
    change(transforms)
    (folder / "transforms.json").write_text(json.dumps(transforms))
    with pytest.raises(BadViewSet) as raised:
        read_views(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def in_view_1(**changes):
    def change(transforms):
        for key, value in changes.items():
            transforms["frames"][1].pop(key, None)
            if value is not None:
                transforms["frames"][1][key] = value

    return change


def matrix(change):
    def damage(transforms):
        pose = np.array(transforms["frames"][1]["transform_matrix"])
        transforms["frames"][1]["transform_matrix"] = np.asarray(change(pose)).tolist()

    return damage


DAMAGE = {
    "no pose": (in_view_1(transform_matrix=None), "'transform_matrix' is missing"),
    "no image name": (in_view_1(file_path=None), "file_path"),
    "number as a name": (in_view_1(file_path=7), "file_path"),
    "no focal length": (in_view_1(fl_x=None), "fl_x"),
    "zero focal length": (in_view_1(fl_x=0), "positive"),
    "negative focal length": (in_view_1(fl_y=-3.0), "positive"),
    "NaN focal length": (in_view_1(fl_x=float("nan")), "fl_x"),
    "text as focal length": (in_view_1(fl_x="wide"), "fl_x"),
    "angle in degrees": (in_view_1(fl_x=None, camera_angle_x=49.1), "radians"),
    "bent lens": (in_view_1(k1=0.1), "distortion"),
    "NaN pose": (matrix(lambda m: m * float("nan")), "NaN"),
    "infinite pose": (matrix(lambda m: m + np.diag([0, 0, 0, np.inf])), "NaN or infinity"),
    "mirrored": (matrix(lambda m: m * [[-1, 1, 1, 1]]), "determinant -1"),
    "scaled": (matrix(lambda m: m * [[2, 2, 2, 1]]), "no rotation"),
    "sheared": (matrix(lambda m: m + np.array([0, 0.1, 0, 0])), "no rotation|last row"),
    "transposed": (matrix(lambda m: m.T), "last row"),
    "3x4": (matrix(lambda m: m[:3]), "3x4 instead of 4x4"),
    "ragged": (in_view_1(transform_matrix=[[1, 0], [1]]), "numbers"),
    "words as a pose": (in_view_1(transform_matrix="identity"), "numbers"),
    "missing image": (in_view_1(file_path="images/999.png"), "does not exist"),
    "duplicate image": (in_view_1(file_path="images/000.png"), "already the image of view 0"),
    "escaping path": (in_view_1(file_path="../secret.png"), "leaves the folder"),
    "absolute path": (in_view_1(file_path="/etc/passwd"), "leaves the folder"),
    "wrong size": (lambda t: t.update(w=99), "instead of 99"),
    "view is a list": (lambda t: t["frames"].__setitem__(1, []), "not an object"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_refused_with_the_index_of_the_view(folder, damage):
    import re

    change, words = DAMAGE[damage]
    message = damaged(folder, change)
    assert re.search(words, message), message
    assert ("view 0" if damage == "wrong size" else "view 1") in message


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"frames": []}', "{}", '{"frames": 3}', "null", "\0", "[" * 100_000]
)
def test_a_broken_transforms_file_is_refused(folder, content):
    (folder / "transforms.json").write_text(content)
    with pytest.raises(BadViewSet, match=r"transforms.json"):
        read_views(folder)


def test_validation_lists_every_fault_in_the_order_of_views(folder):
    def change(transforms):
        transforms["frames"][2]["fl_x"] = 0
        in_view_1(transform_matrix=None, file_path="images/no.png")(transforms)

    assert "(and 2 more" in damaged(folder, change)
    assert [fault.split(":")[0] for fault in validate_views(folder)] == ["view 1", "view 1", "view 2"]


def test_a_broken_image_names_its_view(folder):
    (folder / "images/002.png").write_bytes(b"")
    with pytest.raises(BadViewSet, match=r"view 2: .*empty"):
        read_views(folder)


def test_an_image_of_another_size_names_its_view(folder):
    write_image(folder / "images/001.png", torch.zeros(4, 5, 5))
    with pytest.raises(BadViewSet, match=r"view 1: .*5 x 5 instead of 8 x 6"):
        read_views(folder)


def test_images_without_alpha_are_refused_unless_a_mask_is_named(folder):
    write_image(folder / "images/001.png", torch.rand(3, 6, 8) * 0.5)
    with pytest.raises(BadViewSet, match=r"view 1: .*no alpha.*mask="):
        read_views(folder)
    assert read_views(folder, mask="none").images[1, 3].eq(1).all()


def test_a_missing_folder_and_one_without_transforms_say_what_to_do(tmp_path):
    with pytest.raises(BadViewSet, match="no such folder"):
        read_views(tmp_path / "no")
    with pytest.raises(BadViewSet, match="rig="):
        read_views(tmp_path)


def test_an_existing_folder_is_refused_and_replaced_only_if_it_is_a_view_set(tmp_path, folder):
    with pytest.raises(BadOutput, match="already exists"):
        write_views(folder, view_set(seed=1))
    assert read_views(folder).provenance == {"seed": 0}
    write_views(folder, view_set(num_views=2, seed=1), overwrite=True)
    assert read_views(folder).provenance == {"seed": 1} and len(list((folder / "images").iterdir())) == 2
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(BadOutput, match="other things"):
        write_views(tmp_path / "home", view_set(), overwrite=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_cameras_and_images_that_no_reader_would_accept_are_not_written(tmp_path):
    for name, damage in {"nan": (0, 0, float("nan")), "scaled": (0, 0, 3.0)}.items():
        views = copy.deepcopy(view_set())
        views.cameras.poses[1, damage[0], damage[1]] = damage[2]
        with pytest.raises(BadCamera, match="view 1"):
            write_views(tmp_path / name, views)
    views = copy.deepcopy(view_set())
    views.cameras.intrinsics[2, 0, 0] = 0
    with pytest.raises(BadCamera, match="view 2"):
        write_views(tmp_path / "lens", views)
    views = copy.deepcopy(view_set())
    views.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(BadViewSet, match="NaN"):
        write_views(tmp_path / "image", views)
    assert not list(tmp_path.iterdir())


def test_images_that_do_not_fit_the_cameras_make_no_view_set():
    views = view_set()
    with pytest.raises(BadViewSet, match="images"):
        ViewSet(views.images[:2], views.cameras, "x")


@pytest.fixture
def official(tmp_path):
    """A folder as SyncDreamer's renderer leaves it: 16 images, depth maps beside them."""
    for index in range(16):
        write_image(tmp_path / "official" / f"{index:03d}.png", torch.full((4, 8, 8), index / 15))
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "official" / f"{index:03d}-depth.png")
    return tmp_path / "official"


def test_a_folder_of_plain_images_is_read_with_the_cameras_of_a_rig(official):
    views = read_views(official, rig="syncdreamer")
    assert views.name == "official" and torch.equal(views.cameras.poses, rig("syncdreamer", size=8).poses)
    assert_close(views.images[:, 3, 0, 0], torch.arange(16) / 15, atol=0.5 / 255, rtol=0)


def test_a_rig_folder_with_a_view_too_few_is_refused(official):
    (official / "007.png").unlink()
    with pytest.raises(BadViewSet, match=r"15 images.*16 views"):
        read_views(official, rig="syncdreamer")


def test_nerf_synthetic_files_are_read_too(folder):
    """One opening angle for all views, names without a suffix, no principal point."""
    transforms = json.loads((folder / "transforms.json").read_text())
    for frame in transforms["frames"]:
        for key in ("fl_x", "fl_y", "cx", "cy"):
            del frame[key]
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    transforms["camera_angle_x"] = 0.5
    (folder / "transforms.json").write_text(json.dumps(transforms))
    shutil.rmtree(folder / "provenance.json", ignore_errors=True)
    intrinsics = read_views(folder).cameras.intrinsics
    assert_close(intrinsics[0], torch.tensor([[4 / np.tan(0.25), 0, 4], [0, 4 / np.tan(0.25), 3], [0, 0, 1]]).float())


def test_plain_images_get_a_rig_as_it_was_called(tmp_path):
    """The official circles have any elevation and distance."""
    for view in range(36):
        Image.new("RGBA", (8, 8), (9, 9, 9, 255)).save(tmp_path / f"{view}.png")
    options = {"elevation_deg": 12.0, "distance": 1.8}
    views = read_views(tmp_path, rig="viewfusion", rig_options=options)
    assert_close(views.cameras.poses, rig("viewfusion", size=8, **options).poses)
    with pytest.raises(BadRequest, match="does not read height; it reads num_views, elevation_deg, distance"):
        read_views(tmp_path, rig="viewfusion", rig_options={"height": 1})
