"""The generate program: pictures and poses, good and bad, and what they become."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from core.cameras.poses import spherical, to_opengl
from core.cameras.rigs import rig
from core.compose import composed
from core.config import plain
from core.errors import BadCamera, BadConfig, BadImage, BadRequest, BadViewSet, MissingWeights, UserError
from core.images import read_image
from core.settings import settings
from core.views import ViewSet, read_views
from projects.viewfusion import generate, pipeline
from projects.viewfusion.estimate import estimate_memory
from projects.viewfusion.pictures import model_input
from projects.viewfusion.settings import Settings, check
from tests.golden_fixture import load
from tests.projects.viewfusion.generating import SIZE, SMALL, config, picture, run, weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return str(weights(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def made(tmp_path, monkeypatch, trained):
    """Runs on one picture; returns the object's folder."""
    image = picture(tmp_path / "a.png")

    def make(**changes) -> Path:
        given = {"input": image, "out": str(tmp_path / "out"), "weights": trained} | changes
        [record] = run(monkeypatch, **given)
        return Path(record["folder"])

    return make


def degrees(views: ViewSet) -> torch.Tensor:
    """[azimuth, elevation, radius] of each view."""
    azimuth, elevation, radius = spherical(views.cameras.centers.double())
    return torch.stack([torch.rad2deg(azimuth) % 360, torch.rad2deg(elevation), radius], dim=-1)


@pytest.mark.parametrize("num_views", [1, 5, pytest.param(2, marks=pytest.mark.slow)])
def test_a_circle_has_any_number_of_views_and_begins_with_the_input(num_views, made):
    """The official code fails below 6."""
    folder = made(num_views=num_views, input_poses=[[40.0, 20.0, 1.8]])
    views = read_views(folder / "views")
    expected = torch.tensor([[(40 + 360 * k / num_views) % 360, 20.0, 1.8] for k in range(num_views)])
    assert_close(degrees(views).float(), expected, rtol=0, atol=1e-3)
    assert_close(views.rgb()[0], read_image(folder / "input.png")[:3], rtol=0, atol=1 / 255)
    assert (folder / "turntable.mp4").is_file() == (num_views > 1)
    assert Image.open(folder / "contact_sheet.png").size == (min(9, num_views) * SIZE, 2 * SIZE)
    for key in ("code", "config", "weights", "seed", "versions"):
        assert key in views.provenance


@pytest.mark.slow
def test_listed_poses_come_in_their_order(made):
    poses = [[300.0, -10.0, 1.6], [10.0, 80.0, 1.5], [120.0, 30.0, 2.0]]
    folder = made(poses=poses)
    assert_close(degrees(read_views(folder / "views")).float(), torch.tensor(poses), rtol=0, atol=1e-3)
    assert (folder / "views.mp4").is_file() and not (folder / "turntable.mp4").exists()


@pytest.mark.parametrize(("fusion", "steps"), [("interpolated_denoising", 5), ("zero123", 1)])
def test_one_far_pose_is_reached_by_way_of_others_that_are_not_kept(fusion, steps, made):
    """Zero-1-to-3 alone has no use for others."""
    folder = made(poses=[[45.0, 30.0, 1.5]], fusion=fusion)
    assert len(read_views(folder / "views")) == 1
    assert json.loads((folder / "result.json").read_text())["made"] == steps


@pytest.mark.slow
def test_a_rigs_name_gives_its_poses(made):
    views = read_views(made(poses="zero123plus") / "views")
    expected = rig("zero123plus", size=SIZE)
    assert_close(views.cameras.poses, expected.poses, rtol=0, atol=1e-5)
    assert not torch.allclose(views.cameras.intrinsics, expected.intrinsics)  # the lens is the model's


@pytest.mark.slow
def test_poses_of_a_transforms_json_need_no_images(made, tmp_path):
    cameras = rig("ouroboros", size=8)
    frames = [{"transform_matrix": pose.tolist()} for pose in to_opengl(cameras.poses)]
    (tmp_path / "poses.json").write_text(json.dumps({"frames": frames}))
    views = read_views(made(poses=str(tmp_path / "poses.json")) / "views")
    assert_close(views.cameras.poses, cameras.poses, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("key", "radius"), [("poses", 1.8), ("input_poses", 1.4)])
def test_a_distance_that_the_weights_do_not_know_is_refused(key, radius, made):
    """The bundled ones were trained at 1.5 alone; the published architecture refuses none."""
    model = config()["model"]
    model["denoiser"]["distances"] = [1.5, 1.5]
    with pytest.raises(BadCamera, match=rf"^{key}: pose 0 has the radius {radius}, .* trained at 1\.5 only"):
        made(**{"model": model, "poses": [[90.0, 30.0, 1.5]], key: [[90.0, 30.0, radius]]})


def test_views_that_are_not_finite_are_refused_rather_than_written_black(made, tmp_path):
    with pytest.raises(BadRequest, match=r"view 0 is not finite; use precision=32 or bf16, or a smaller cfg_scale"):
        made(poses=[[90.0, 30.0, 1.5]], way="never", cfg_scale=1e38)
    assert not (tmp_path / "out" / "a" / "views").exists()


@pytest.mark.slow
def test_more_posed_images_change_the_views(made, tmp_path):
    other = picture(tmp_path / "b.png", color=(0, 90, 200))
    one = read_views(made(num_views=3) / "views")
    two = read_views(
        made(
            input=[str(tmp_path / "a.png"), other],
            input_poses=[[0.0, 30.0, 1.5], [120.0, 10.0, 1.7]],
            num_views=3,
            out=str(tmp_path / "two"),
        )
        / "views"
    )
    assert torch.equal(one.images[0], two.images[0]) and not torch.equal(one.images[1], two.images[1])


@pytest.mark.slow
def test_views_do_not_depend_on_how_many_conditions_are_denoised_at_once(made, tmp_path):
    views = [
        read_views(made(num_views=4, batch_view_num=number, out=str(tmp_path / str(number))) / "views").images
        for number in (1, 8)
    ]
    assert (views[0] - views[1]).abs().max() <= 1 / 255 + 1e-6  # 8-bit files; the floats agree to 1e-5


def test_what_is_done_is_skipped_and_other_settings_are_refused(made, capsys):
    folder = made(num_views=1)
    written = (folder / "result.json").stat().st_mtime_ns
    made(num_views=1, batch_view_num=3)
    assert (folder / "result.json").stat().st_mtime_ns == written and "done before, skipped" in capsys.readouterr().err
    with pytest.raises(BadRequest, match="other settings"):
        made(num_views=2)
    assert len(read_views(made(num_views=2, overwrite=True) / "views")) == 2
    (folder / "contact_sheet.png").unlink()
    with pytest.raises(BadRequest, match="overwrite=true"):
        made(num_views=2)


def test_a_folder_goes_on_past_a_bad_picture_and_lists_it(tmp_path, monkeypatch, trained):
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 of 2 inputs failed"):
        run(monkeypatch, input=str(tmp_path / "in"), out=str(tmp_path / "out"), weights=trained, num_views=2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {Path(line["input"]).name: line["status"] for line in lines} == {"bad.png": "failed", "good.png": "ok"}
    assert not list((tmp_path / "out").rglob(".tmp-*")) and (tmp_path / "out" / "good" / "views").is_dir()


def test_images_of_one_object_must_have_one_size(made, tmp_path):
    other = picture(tmp_path / "b.png", size=(48, 30))
    poses = [[0.0, 30.0, 1.5], [90.0, 30.0, 1.5]]
    with pytest.raises(BadImage, match=r"b\.png is 48 x 30 pixels, .*a\.png 40 x 30"):
        made(input=[str(tmp_path / "a.png"), other], input_poses=poses)
    assert not (tmp_path / "out" / "a").exists()


TWO = {"input": ["a.png", "b.png"]}
FAR = [[0.0, 30.0, 1.5], [90.0, 30.0, 1.5]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poses": [[0.0, 30.0, 1.0]]}, "pose 0 has the radius 1, on the object or inside it"),
        ({"poses": [[0.0, 30.0, 1.5], [9.0, 30.0, 0.2]]}, "pose 1 has the radius 0.2"),
        ({"input_poses": [[0.0, 30.0, 0.9]]}, "input_poses: pose 0 has the radius 0.9"),
        ({"num_views": 0}, "num_views=0: expected a whole number from 1 to 1000"),
        ({"poses": []}, "poses=\\[\\]: expected at least one pose"),
        ({"poses": [[0.0, 30.0]]}, "poses: pose 0 is \\[0.0, 30.0\\]; expected"),
        ({"poses": [[0.0, 30.0, math.nan]]}, "poses: pose 0"),
        ({"poses": [[0.0, 91.0, 1.5]]}, "elevation 91"),
        ({"poses": [*FAR, [360.0, 30.0, 1.5]]}, "poses 0 and 2 are the same"),
        ({**TWO, "input_poses": [FAR[0], FAR[0]]}, "input_poses: poses 0 and 1 are the same"),
        ({**TWO, "input_poses": FAR[:1]}, "input_poses: 1 poses for 2 images"),
        (TWO, "input_poses: 0 poses for 2 images"),
        ({"input_poses": FAR}, "input_poses: 2 poses for 1 images"),
        ({"input": ["a.png", "a.png"], "input_poses": FAR}, "'a.png' is listed twice"),
        ({"input": []}, "names no image"),
        ({**TWO, "input_poses": FAR, "crop_size": 50}, "crop_size=50 frames each image by itself"),
        ({"poses": FAR, "num_views": 3}, "num_views=3: poses= lists all its views"),
        ({"crop_size": 100}, "crop_size=100: expected a whole number from 1 to 64"),
        ({"fusion": "none"}, "fusion=none: choose one of interpolated_denoising"),
        ({"noise": "own"}, "noise=own: choose one of per_condition, shared"),
        ({"way": "far"}, "way=far: choose one of"),
        ({"way": "alone"}, "way=alone: a circle has an order of its own"),
        ({"way": "always", "poses": FAR, "fusion": "zero123"}, "way=always: fusion=zero123"),
        ({"num_views": 1001}, "num_views=1001: expected a whole number from 1 to 1000"),
        ({"poses": [[0.0, 30.0, 1e308]]}, "radius 1e\\+308; give one of at most 100"),
        ({"poses": [[k / 10, 30.0, 1.5] for k in range(1001)]}, "1001 poses; give at most 1000"),
        ({"alpha": "all"}, "alpha=all: choose one of"),
        ({"auto_temp": 0.0}, "auto_temp=0.0: expected a number above 0"),
        ({"window_deg": 181.0}, "window_deg=181.0"),
        ({"drop_last": True}, "drop_last=true is of the official rule"),
        ({"sample_steps": 1, "timestep_spacing": "leading", "drop_last": True}, "without the last one are none"),
        ({"sample_steps": 1000, "timestep_spacing": "leading"}, "beyond the last one"),
        ({"batch_view_num": 0}, "batch_view_num=0"),
        ({"mask": "whyte"}, "mask=whyte"),
        ({"precision": "8"}, "precision=8"),
        ({"device": "gpu"}, "device=gpu"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_what_would_be_right(changes, words):
    with pytest.raises((BadConfig, BadCamera), match=words):
        check(config(input="x.png") | changes)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"poses": "cirlce"}, BadConfig, "poses=cirlce: choose one of circle, .*nearest known key is 'circle'"),
        ({"poses": "nowhere.json"}, BadViewSet, "nowhere.json"),
        ({"poses": "zero123plus", "num_views": 7}, BadConfig, "poses=zero123plus has 6 views of its own"),
        ({"weights": "nowhere.ckpt"}, MissingWeights, "nowhere.ckpt"),
        ({"input": "nowhere.png"}, BadImage, "nowhere.png"),
    ],
)
def test_what_is_not_there_is_named_before_any_work(changes, kind, words, made, tmp_path):
    with pytest.raises(kind, match=words):
        made(**changes)
    assert not (tmp_path / "out" / "results.jsonl").exists()  # no picture is blamed


def turned(pose: torch.Tensor, angle: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1.0]])
    return pose @ turn


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda pose: pose * 1.2, BadViewSet, "view 1: the pose has the last row"),
        (lambda pose: pose @ torch.diag(torch.tensor([-1.0, 1, 1, 1])), BadViewSet, "view 1: the pose mirrors space"),
        (lambda pose: pose[:3], BadViewSet, "view 1: transform_matrix is 3x4 instead of 4x4"),
        (lambda pose: pose * torch.nan, BadViewSet, "view 1: the pose contains NaN"),
        (lambda pose: turned(pose, 0.1), BadCamera, "view 1 is turned by 5.7 degrees"),
        (lambda pose: torch.cat([pose[:, :3], pose[:, 3:] * torch.tensor([[0.3]] * 3 + [[1.0]])], dim=1), BadCamera,
         "pose 1 has the radius 0.45, on the object or inside it"),
    ],
    ids=["scaled", "mirrored", "3x4", "nan", "turned away", "inside"],
)  # fmt: skip
def test_a_pose_file_with_a_broken_matrix_is_refused_by_its_view(change, kind, words, made, tmp_path):
    poses = to_opengl(rig("syncdreamer", size=8).poses)
    frames = [{"transform_matrix": (change(p) if k == 1 else p).tolist()} for k, p in enumerate(poses)]
    (tmp_path / "poses.json").write_text(json.dumps({"frames": frames}))
    with pytest.raises(kind, match=words):
        made(poses=str(tmp_path / "poses.json"))
    assert not (tmp_path / "out").exists()


def test_equal_poses_in_a_file_are_refused(made, tmp_path):
    poses = to_opengl(rig("syncdreamer", size=8).poses)[[0, 1, 0]]
    (tmp_path / "poses.json").write_text(json.dumps({"frames": [{"transform_matrix": p.tolist()} for p in poses]}))
    with pytest.raises(BadCamera, match="poses 0 and 2 are the same"):
        made(poses=str(tmp_path / "poses.json"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["poses=[[0,30,0.5]]"],
        pytest.param(["num_views=0"], marks=pytest.mark.slow),
        pytest.param(["poses=[[0,30,1.5],[0,30,1.5]]"], marks=pytest.mark.slow),
        pytest.param(["input=[a.png,b.png]", "input_poses=[[0,30,1.5]]"], marks=pytest.mark.slow),
        pytest.param(["poses=my poses, 1.json"], marks=pytest.mark.slow),
        pytest.param(["input_poses=[[0,30,1.5],[1,30,1.5]]"], marks=pytest.mark.slow),
    ],
)
def test_the_program_ends_with_one_line_and_code_2(arguments, tmp_path, capsys):
    picture(tmp_path / "a.png")
    with pytest.raises(SystemExit) as stop:
        generate.main([*SMALL, f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}", *arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("error:") == 1 and "Traceback" not in err
    assert not list(tmp_path.rglob("result.json")) and not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.slow
def test_the_published_size_is_estimated_without_weights_and_by_batch_and_precision():
    program = generate.main.program
    model = plain(settings(program, composed(program, ["input=x"])).model)
    one, many, half = (
        estimate_memory(model, Settings(batch_view_num=views, precision=precision), torch.device("cpu"))
        for views, precision in ((1, "32"), (16, "32"), (16, "bf16"))
    )
    # The UNet, the autoencoder, CLIP's image tower and the projection of poses, in 32 bits.
    assert one.weights / 4 == pytest.approx(859_532_484 + 83_653_863 + 303_966_208 + 772 * 768 + 768, rel=1e-3)
    assert many.activations > 2 * one.activations and many.activations > 1.5 * half.activations
    assert "batch_view_num=16" in many.hint and "float32" in str(many)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["real", "gso", "renderings", "multi"])
def test_an_official_scripts_preset_composes_with_small_weights(preset, tmp_path, trained):
    picture(tmp_path / "a.png")
    poses = {"renderings": ["poses=[[25,30,1.5],[340,20,1.5]]"]}.get(preset, ["num_views=3"])
    generate.main(
        [f"+experiment=[viewfusion/toybox,viewfusion/{preset}]", SMALL[1], "sample_steps=2", "device=cpu",
         f"input={tmp_path / 'a.png'}", f"out={tmp_path / 'out'}", f"weights={trained}", *poses]
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "a" / "result.json").read_text())
    assert (record["views"], record["made"]) == ((2, 3 + 2) if preset == "renderings" else (3, 2))


def test_a_full_disk_leaves_nothing_half_written(made, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "write_result", full)
    with pytest.raises(UserError, match="No space left"):
        made(num_views=2)
    assert not list((tmp_path / "out").rglob(".tmp-*")) and not (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize(("alpha", "expected"), [("blend", "real_u8"), ("cut", "cond_u8")])
def test_pictures_are_read_as_the_official_loaders_read_them(alpha, expected):
    _, data = load("viewfusion", "gso_pose")
    rgba = data["rgba"].permute(2, 0, 1).float() / 255
    found = model_input(rgba, data[expected].shape[-1], alpha=alpha)
    assert (found[:3] * 255 - data[expected].float()).abs().max() <= 1  # theirs cuts to 8 bits, ours rounds


def test_a_picture_that_is_not_square_keeps_its_proportions():
    rgba = torch.zeros(4, 20, 40)
    rgba[3, 5:15, 5:35] = 1
    found = model_input(rgba, 40)
    inside = np.argwhere(found[3].numpy() > 0.5)
    assert (inside.max(axis=0) - inside.min(axis=0) + 1).tolist() == [10, 30]
    assert (found[:3, found[3] == 0] == 1).all()
