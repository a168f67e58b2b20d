"""Views -> mesh, at a size for tests: the program as a user starts it, and the fit behind it."""

import functools
import json
import os
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
import yaml
from omegaconf import OmegaConf
from torch.testing import assert_close

from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.errors import BadConfig, BadOutput, BadRequest, BadViewSet
from core.fields.sdf import SDFNetwork, SurfaceColor
from core.fitting.fit import Fit, FitDiverged, learning_rate
from core.fitting.pixels import Pixels
from core.fitting.turntable import Turntable, look_through
from core.media import write_video
from core.render.neus import NeuS, near_far
from core.settings import composed, settings
from core.views import write_views
from projects.benchmark import assets
from projects.benchmark.assets import find_items, shrink
from projects.benchmark.reconstruct import check, main
from tests.projects.benchmark.balls import RADIUS, ball_views

TINY = [
    "field.sdf.hidden_dim=16", "field.sdf.feature_dim=4", "field.sdf.num_layers=2", "field.color.hidden_dim=8",
    "field.num_coarse=8", "field.num_fine=8", "fit.steps=4", "fit.num_random=32", "fit.num_foreground=16",
    "mesh.resolution=20", "mesh.texture_size=0", "turntable.num_frames=2", "turntable.size=17",
]  # fmt: skip


def tiny_neus(seed: int = 0) -> NeuS:
    torch.manual_seed(seed)
    return NeuS(
        sdf=SDFNetwork(feature_dim=4, hidden_dim=16, num_layers=2, skip_layers=(), num_frequencies=2),
        color=SurfaceColor(feature_dim=4, hidden_dim=8, num_layers=1),
        num_coarse=8, num_fine=8, num_rounds=2, span="cube",
    )  # fmt: skip


@pytest.fixture
def ball(tmp_path) -> Path:
    write_views(tmp_path / "views" / "ball", ball_views())
    return tmp_path / "views" / "ball"


def test_the_program_writes_an_asset_and_skips_it_the_second_time(ball, tmp_path, capsys):
    out, textured = tmp_path / "out", ["mesh.resolution=12", "mesh.texture_size=32"]
    main([f"views={ball}", f"out={out}", *TINY, *textured])
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert {"mesh.glb", "mesh.ply", "turntable.mp4", "metrics.csv", "asset.json", "results.jsonl"} <= names
    assert not any(path.name.startswith((".work", ".tmp")) for path in out.iterdir())
    record = json.loads((out / "asset.json").read_text())
    assert record["turntable"]["through"] == "mesh" and record["mesh"]["num_faces"] > 100
    mesh = trimesh.load(out / "mesh.glb", force="mesh")
    assert len(mesh.faces) == record["mesh"]["num_faces"] and mesh.visual.uv is not None
    before = (out / "mesh.glb").stat().st_mtime_ns
    main([f"views={ball}", f"out={out}", *TINY, *textured])
    assert "skipped" in capsys.readouterr().out and (out / "mesh.glb").stat().st_mtime_ns == before


def test_views_whose_alpha_marks_nothing_need_a_mask_and_own_cameras_need_no_rig(ball):
    opaque = assets.object_views(ball, None, None)
    images = torch.cat([opaque.rgb(), torch.ones_like(opaque.images[:, 3:])], dim=1)
    write_views(ball, replace(opaque, images=images), overwrite=True)
    with pytest.raises(BadRequest, match="alpha is full everywhere"):
        assets.object_views(ball, None, None)
    found = assets.object_views(ball, None, "white").images[:, 3]
    assert (found - opaque.images[:, 3]).abs().mean() < 0.02
    assert (assets.object_views(ball, None, "none").images[:, 3] == 1).all()
    with pytest.raises(BadRequest, match="leave rig=mvdream away"):
        assets.object_views(ball, "mvdream", None)


def test_a_mask_that_is_none_is_refused_before_any_work(ball, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([f"views={ball}", f"out={tmp_path / 'out'}", "mask=whyte", "--dry-run"])
    assert stop.value.code == 2 and "mask=whyte" in capsys.readouterr().err


@pytest.mark.slow
def test_other_settings_do_not_replace_a_result_unless_asked(ball, tmp_path, capsys):
    out = tmp_path / "out"
    main([f"views={ball}", f"out={out}", *TINY])
    with pytest.raises(SystemExit) as stop:
        main([f"views={ball}", f"out={out}", *TINY, "seed=1"])
    assert stop.value.code == 2 and "overwrite=true" in capsys.readouterr().err
    main([f"views={ball}", f"out={out}", *TINY, "seed=1", "overwrite=true"])


def test_a_batch_goes_on_past_a_bad_view_set(ball, tmp_path, capsys):
    empty = ball_views()
    write_views(ball.parent / "nothing", replace(empty, images=torch.zeros_like(empty.images), name="nothing"))
    with pytest.raises(SystemExit) as stop:
        main([f"views={ball.parent}", f"out={tmp_path / 'out'}", *TINY])
    assert stop.value.code == 2 and "1 of 2" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["done", "failed"]
    assert "foreground" in lines[1]["error"]
    assert (tmp_path / "out" / "ball" / "mesh.ply").exists()


@pytest.mark.parametrize("method", ["neus", "nerf"])
@pytest.mark.parametrize("preset", ["paper", "medium", "toybox"])
def test_every_method_composes_with_every_preset(method, preset, capsys):
    main(["views=somewhere", f"method={method}", f"preset={preset}", "--dry-run"])
    assert "settings are good" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("fit.stepz=3", "fit.steps", marks=pytest.mark.slow),  # tests/app has other unknown keys
        ("views=/nowhere", "no folder"),
        ("device=gpu", "device=gpu is not usable here (no such device)"),
        ("image.max_size=0", "image.max_size=0: expected a whole number of at least 8"),
        ("fit.num_random=0 fit.num_foreground=0", "a step without rays learns nothing"),
        ("seed=0.5", "seed=0.5"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_before_any_work(tmp_path, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["views=x", *arguments.split(), f"out={tmp_path / 'out'}"])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and error.startswith("error:") and message in error and "\n" not in error


@pytest.mark.parametrize(("argument", "message"), [("fit.steps=0", "steps=0"), ("+fit.stepz=3", "'fit.stepz'")])
def test_a_dry_run_knows_what_the_fit_would_refuse(argument, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["views=x", argument, "--dry-run"])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@functools.cache
def toybox_settings(method: str):
    return settings(main.program, composed(main.program, ["views=x", f"method={method}"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rig=nothing", "rig=nothing: choose one of"),
        ("rig_options={elevation_deg: 12}", "without rig="),
        ("device=meta", "device=meta is not usable here"),
        ("image.pixel_offset=2", "image.pixel_offset=2"),
        ("mesh.resolution=1", "mesh.resolution=1: expected a whole number of at least 8"),
        ("mesh.texture_size=-1", "mesh.texture_size=-1"),
        ("mesh.min_component=1.5", "mesh.min_component=1.5: expected a number from 0 to 1"),
        ("turntable.num_frames=0", "num_frames=0: expected a whole number of at least 1"),
        ("turntable.size=1", "size=1"),
        ("turntable.fps=0", "fps=0"),
        ("turntable.distance=-1.0", "distance=-1.0: expected a number above 0"),
        ("fit.num_random=-1", "num_random=-1"),
        ("fit.steps=0", "steps=0: expected a whole number of at least 1"),
        ("fit.steps=-3", "steps=-3"),
        ("fit.lr=-0.1", "lr=-0.1: expected a number above 0"),
        ("fit.decay=-1.0", "decay=-1.0"),
        ("fit.decay_every=0", "decay_every=0"),
        ("fit.log_every=0", "log_every=0"),
        ("fit.checkpoint_every=0", "checkpoint_every=0"),
        ("field.num_coarse=1", "num_coarse=1"),
        ("field.num_rounds=0", "num_rounds=0"),
        ("field.num_rounds=5", "must be a multiple of num_rounds=5"),
        ("field.anneal_steps=0", "anneal_steps=0"),
        ("field.bound=0.0", "bound=0.0: expected a number above 0"),
        ("field.max_steps=0", "max_steps=0"),
        ("field.grid_every=0", "grid_every=0"),
    ],
)
def test_settings_that_would_fail_after_the_fit_are_refused_before_it(setting, message):
    key, _, value = setting.partition("=")
    nerf = key.startswith(("field.max", "field.grid"))
    cfg = OmegaConf.to_container(toybox_settings("nerf" if nerf else "neus"))
    *path, last = key.split(".")
    node = functools.reduce(dict.__getitem__, path, cfg)
    assert last in node
    node[last] = yaml.safe_load(value)
    with pytest.raises(BadConfig, match=re.escape(message)):
        check(cfg)


def test_a_camera_that_is_not_a_number_is_named_by_its_view(ball, tmp_path, capsys):
    transforms = json.loads((ball / "transforms.json").read_text())
    transforms["frames"][5]["transform_matrix"][0][0] = float("nan")
    (ball / "transforms.json").write_text(json.dumps(transforms))
    with pytest.raises(SystemExit) as stop:
        main([f"views={ball}", f"out={tmp_path / 'out'}", *TINY])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and error.startswith("error:") and "view 5" in error and "\n" not in error


FINAL = {"mesh.ply", "mesh.glb", "turntable.mp4", "asset.json"}


def test_ctrl_c_in_the_middle_of_a_fit_ends_with_130_and_it_continues(ball, tmp_path, capsys, monkeypatch):
    step = Fit._step

    def pressing_ctrl_c(fit, field, pixels, optimizer, seed, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(fit, field, pixels, optimizer, seed, number)

    monkeypatch.setattr(Fit, "_step", pressing_ctrl_c)
    with pytest.raises(SystemExit) as stop:
        main([f"views={ball}", f"out={tmp_path / 'out'}", *TINY])
    assert stop.value.code == 130 and "Traceback" not in capsys.readouterr().err
    assert not FINAL & {path.name for path in (tmp_path / "out").rglob("*")}
    done = []
    monkeypatch.setattr(Fit, "_step", lambda *given: (done.append(given[-1]), step(*given))[1])
    main([f"views={ball}", f"out={tmp_path / 'out'}", *TINY])
    assert done == [3] and (tmp_path / "out" / "asset.json").is_file()


@pytest.mark.parametrize("when", ["at a checkpoint", "at the mesh"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(ball, tmp_path, capsys, monkeypatch, when):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))  # the system then refuses larger files

    def filling(function):
        return lambda *given, **settings: (fill_the_disk(), function(*given, **settings))[1]

    if when == "at a checkpoint":
        monkeypatch.setattr(Fit, "_step", filling(Fit._step))
    else:
        monkeypatch.setattr(assets, "clean_mesh", filling(assets.clean_mesh))
    try:
        with pytest.raises(SystemExit) as stop:
            main([f"views={ball}", f"out={tmp_path / 'out'}", *TINY, "fit.checkpoint_every=1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower() or "Traceback" in line]
    assert stop.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: cannot write"), lines
    names = {path.name for path in (tmp_path / "out").rglob("*")}
    assert not FINAL & names and not any(name.startswith(".tmp") for name in names)


def test_plain_images_want_a_rig_and_targets_get_names_of_their_own(ball, tmp_path):
    with pytest.raises(BadViewSet, match="rig="):
        find_items(str(ball / "images"), tmp_path, rig=None)
    assert find_items(str(ball / "images"), tmp_path, rig="syncdreamer")[0].folder == tmp_path
    for uid in ("a", "b"):
        write_views(tmp_path / "set" / uid / "target", ball_views(name=uid))
    items = find_items(str(tmp_path / "set" / "*" / "target"), tmp_path / "out", rig=None)
    assert [item.folder.name for item in items] == ["a_target", "b_target"]


class Interrupted(NeuS):
    """Dies at one step."""

    dies_at = -1

    def before_step(self, step, generator):
        if step == self.dies_at:
            raise KeyboardInterrupt


def test_a_killed_fit_continues_bit_for_bit(tmp_path):
    pixels = Pixels.from_views(ball_views())
    fit = Fit(
        steps=7, lr=1e-3, warmup=3, decay_every=2, num_random=24, num_foreground=8, checkpoint_every=3, log_every=1
    )
    whole, killed, resumed = tiny_neus(), tiny_neus(), tiny_neus(seed=5)
    fit(whole, pixels, seed=3, folder=tmp_path / "whole")
    killed.__class__, killed.dies_at = Interrupted, 5
    with pytest.raises(KeyboardInterrupt):
        fit(killed, pixels, seed=3, folder=tmp_path / "killed")
    fit(resumed, pixels, seed=3, folder=tmp_path / "killed")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "killed" / "metrics.csv").read_text()


def test_a_diverging_fit_says_so(tmp_path):
    neus = tiny_neus()
    neus.variance.data.fill_(float("nan"))
    with pytest.raises(FitDiverged, match=r"step 0.*fit\.lr"):
        Fit(steps=2, num_random=8, num_foreground=0)(neus, Pixels.from_views(ball_views()), seed=0, folder=tmp_path)


def test_the_rate_follows_the_official_schedule():
    factor = {step: learning_rate(step, steps=2000) for step in (0, 50, 100, 999, 1000, 1999)}
    assert factor[0] == pytest.approx(0.02) and factor[50] == pytest.approx(0.51)
    assert factor[100] == factor[999] == 1.0
    assert factor[1000] == factor[1999] == pytest.approx(0.1414, abs=1e-4)
    assert learning_rate(500, steps=600) == 1.0  # fewer steps than one interval


def test_batches_are_a_function_of_the_step_and_visit_every_pixel_once():
    pixels = Pixels.from_views(ball_views(size=8))
    count = len(pixels) // 64
    batches = [pixels.batch(0, step, num_random=64, num_foreground=0) for step in range(count)]
    assert len(torch.cat(batches).unique()) == count * 64
    assert torch.equal(pixels.batch(0, 3, num_random=64, num_foreground=5)[:64], batches[3])
    front = pixels.batch(0, 3, num_random=0, num_foreground=9)
    assert (pixels.rgb[front] < 0.99).any(-1).all()


def test_views_without_foreground_are_refused():
    views = ball_views(size=8)
    with pytest.raises(BadViewSet, match="no foreground"):
        Pixels.from_views(replace(views, images=torch.zeros_like(views.images)))


def test_shrinking_keeps_colours_apart_from_the_background():
    views = ball_views(size=32)
    small = shrink(views, 8)
    assert small.images.shape[-2:] == (8, 8) and small.cameras.width == 8
    seen = small.images[:, 3] > 0
    assert_close(small.images[:, 0][seen] + small.images[:, 2][seen], torch.ones(int(seen.sum())), atol=1e-5, rtol=0)
    assert shrink(views, 64) is views


def test_a_fresh_neus_is_a_sphere_with_unit_gradients():
    torch.manual_seed(0)
    sdf = SDFNetwork(feature_dim=8, hidden_dim=128, num_layers=4, skip_layers=(2,))
    points = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1) * torch.linspace(0.2, 0.9, 200)[:, None]
    distance, _, gradient = sdf.with_gradient(points)
    assert (distance[:, 0] - (points.norm(dim=-1) - 0.5)).abs().mean() < 0.1
    assert (gradient.norm(dim=-1) - 1).abs().mean() < 0.2
    assert (gradient * points).sum(-1).min() > 0  # outward


def test_rays_that_miss_the_cube_see_white():
    rays = pixel_rays(rig("syncdreamer", size=4))
    away = replace(rays, directions=-rays.directions)
    for span in ("cube", "sphere"):
        neus = tiny_neus()
        neus.span = span
        color, opacity = neus.look(away[0].__class__(away.origins.reshape(-1, 3), away.directions.reshape(-1, 3)))
        if span == "cube":
            assert_close(color, torch.ones_like(color))
            assert not opacity.any()
    near, far = near_far(away)
    assert (far > near).all()


def test_a_turntable_films_the_mesh_and_the_field():
    neus = tiny_neus()
    mesh = neus.surface(20, eyes=torch.eye(3))
    through_mesh = Turntable(num_frames=3, size=16, through="mesh")(neus, mesh)
    assert through_mesh.shape == (3, 3, 16, 16) and through_mesh[:, :, 0, 0].min() == 1
    through_field = Turntable(num_frames=1, size=16)(neus, mesh)
    camera = Turntable(num_frames=1, size=16).cameras[0]
    assert_close(through_field[0], look_through(neus, camera, chunk=50))


def test_videos_fall_back_to_gif_where_there_is_no_encoder(tmp_path, monkeypatch):
    frames = torch.rand(3, 3, 10, 13)
    assert write_video(tmp_path / "a.mp4", frames) == tmp_path / "a.mp4"
    assert (tmp_path / "a.mp4").stat().st_size > 100
    monkeypatch.setattr("core.media._write_mp4", lambda *_: (_ for _ in ()).throw(RuntimeError("no ffmpeg exe")))
    with pytest.warns(UserWarning, match="no mp4 encoder"):
        assert write_video(tmp_path / "b.mp4", frames) == tmp_path / "b.gif"
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput):
        write_video(tmp_path / "file" / "c.gif", frames)


@pytest.mark.slow
def test_the_toybox_preset_recovers_the_ball(tmp_path):
    write_views(tmp_path / "ball", ball_views(size=64))
    main([f"views={tmp_path / 'ball'}", f"out={tmp_path / 'out'}", "fit.steps=300", "mesh.texture_size=0"])
    mesh = trimesh.load(tmp_path / "out" / "mesh.ply")
    radii = torch.as_tensor(mesh.vertices).norm(dim=-1)
    upper = torch.as_tensor(mesh.vertices)[:, 2] > 0.1
    assert (radii[upper] - RADIUS).abs().mean() < 0.02
    assert json.loads((tmp_path / "out" / "asset.json").read_text())["mesh"]["num_components"] == 1
