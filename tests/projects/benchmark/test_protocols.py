"""Each protocol file: it composes, scores a tiny set with numbers known by hand, and its hash follows its settings."""

import importlib.util
import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import trimesh

from core.cameras.rigs import rig
from core.config import CONF, instantiate, plain
from core.errors import BadConfig, BadData, BadRequest, MissingWeights, UserError
from core.images import write_image
from core.mesh.export import write_mesh
from core.mesh.place import turned
from core.metrics import sfm
from core.settings import composed, settings
from core.types import Mesh
from core.views import ViewSet, write_views
from projects.benchmark import evaluate as program
from projects.benchmark.evaluation import evaluate
from projects.benchmark.protocol import protocol_hash
from tests.metrics.textured import rendered_sphere, textured_sphere

PROTOCOLS = sorted(path.stem for path in (CONF / "protocol").glob("*.yaml"))
TINY = 48  # pixels, in place of a protocol's 256 or 512


def config(name: str, *typed: str):
    given = ["pred=x", "gt=y", f"protocol={name}", *typed]
    return settings(program.main.program, composed(program.main.program, given))


def scores(tmp_path: Path, protocol: str, *typed: str, name: str = "toy", num_objects: int = 1) -> dict:
    """Of one object of the folder `pred`, by the program."""
    gt, pred, out = (tmp_path / folder for folder in ("gt", "pred", "out"))
    given = [f"gt={gt}", f"pred={pred}", f"out={out}", "overwrite=true", f"protocol.num_objects={num_objects}"]
    found = evaluate(config(protocol, *given, *typed))
    assert found["summary"]["pred"]["scored"] == f"{num_objects} of {num_objects}"
    return found["objects"]["pred"][name]["scores"]


def flat(values: list[float], size: int = TINY) -> torch.Tensor:
    """Opaque gray pictures with a dark square in the middle, of which nothing is white: RGBA."""
    images = torch.ones(len(values), 4, size, size)
    images[:, :3] = torch.tensor(values).view(-1, 1, 1, 1)
    images[:, :3, size // 4 : -size // 4, size // 4 : -size // 4] *= 0.5
    return images


@pytest.mark.parametrize("name", PROTOCOLS)
def test_each_file_is_a_protocol_of_its_own_name_whose_hash_follows_every_setting(name):
    # Composed, but not built: what needs networks has a name and a hash where they are not.
    cfg = plain(composed(program.main.program, ["pred=x", "gt=y", f"protocol={name}"]).protocol)
    assert cfg["name"] == name and cfg["what"] and any(cfg.get(kind) for kind in ("images", "alone", "texts", "shapes"))
    first = protocol_hash(cfg)
    assert protocol_hash(cfg | {"what": "other words"}) == first
    for key, value in numbers_in(cfg):
        assert protocol_hash(changed(cfg, key, value)) != first, key


def numbers_in(node, path: tuple = ()):
    """Every setting of a protocol that decides a number, with another value."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in ("what", "name", "folder", "_target_", "_partial_"):
                yield from numbers_in(value, (*path, key))
    elif isinstance(node, list):
        yield path, node[:-1]
    elif isinstance(node, bool):
        yield path, not node
    else:
        yield path, {str: "another", type(None): 7}.get(type(node), 0.25)


def changed(node: dict, path: tuple, value) -> dict:
    key, *rest = path
    return node | {key: changed(node[key], tuple(rest), value) if rest else value}


def test_a_default_counts_in_the_hash_as_if_it_were_written():
    cfg = plain(config("toybox").protocol)
    assert protocol_hash(cfg | {"crop": None, "alignment": "none"}) == protocol_hash(cfg)
    measure = {"_target_": "core.metrics.shapes.normal_consistency", "_partial_": True}
    one, written, other = (cfg | {"shapes": {"n": measure | more}} for more in ({}, {"seed": 0}, {"seed": 1}))
    assert protocol_hash(one) == protocol_hash(written) != protocol_hash(other)


@pytest.mark.parametrize(
    "name", [name for name in PROTOCOLS if "lpips" in name or "networks" in name or "clip" in name]
)
def test_a_protocol_with_networks_says_where_their_weights_belong(name, monkeypatch, tmp_path):
    monkeypatch.setenv("TURNTABLE_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=str(tmp_path)):
        instantiate(config(name).protocol)


def test_syncdreamer_gso30_scores_a_constant_difference_by_its_formula(tmp_path):
    for k in range(2):
        for kind, gray in (("gt", 0.6), ("pr", 0.8)):
            write_image(tmp_path / ("gt" if kind == "gt" else "pred") / f"toy-{kind}" / f"{k:03d}.png", flat([gray])[0])
    found = scores(tmp_path, "syncdreamer_gso30", f"protocol.size={TINY}")
    # A quarter of the pixels differs by 0.1, the others by 0.2.
    assert found["PSNR (dB)"] == pytest.approx(-10 * math.log10(0.75 * 0.04 + 0.25 * 0.01), abs=0.02)
    assert found["SSIM (range of the data)"] < 0.99


def test_toybox_free_scores_the_views_that_are_never_inputs(tmp_path):
    images = flat([0.6] * 12, 64)
    shifts = torch.tensor([0.3] * 3 + [0.1] * 9).view(-1, 1, 1, 1)
    made = images.clone()
    made[:, :3] -= shifts
    cameras = rig("random", size=64, num_views=12)
    for folder, shown in (("gt", images), ("pred", made)):
        write_views(tmp_path / folder / "toy", ViewSet(shown, cameras, "toy"))
    found = scores(tmp_path, "toybox_free")
    assert found["PSNR (dB)"] == pytest.approx(20, abs=0.3)
    assert (
        len(json.loads((tmp_path / "out" / "scores.json").read_text())["objects"]["pred"]["toy"]["per_view"]["SSIM"])
        == 9
    )


def test_viewfusion_gso_scores_all_but_the_given_view_of_the_official_files(tmp_path):
    root = tmp_path / "gt"
    root.mkdir()
    (root / "rendering_test_list_video_condition_id.json").write_text(json.dumps({"toy": 1}))
    for k in range(3):
        rgba = flat([0.6], 2 * TINY)[0]
        rgba[:, : 2 * TINY // 8] = 0  # transparent black rows, which become white and nothing else does
        write_image(root / "gso_renderings_elevation60" / "toy" / f"{k:03d}.png", rgba)
    made = flat([0.6])[0][:3]
    made[:, : TINY // 8] = 1
    for k, shift in ((0, 0.0), (2, 0.1), (1, 0.9)):  # the given view is far off, and must not count
        write_image(tmp_path / "pred" / "toy" / f"1_{k}_generation.png", (made - shift).clamp(0, 1))
    write_image(tmp_path / "pred" / "toy" / "1_0_target.png", made * 0)
    found = scores(tmp_path, "viewfusion_gso", f"protocol.size={TINY}")
    # View 0 is equal but for a row that the reduction blurs; view 2 is 0.1 darker everywhere.
    per_view = json.loads((tmp_path / "out" / "scores.json").read_text())["objects"]["pred"]["toy"]["per_view"]
    assert len(per_view["PSNR (dB)"]) == 2 and per_view["PSNR (dB)"][0] > 30
    assert per_view["PSNR (dB)"][1] == pytest.approx(20, abs=0.3) and 0 < found["SSIM"] < 1
    (root / "rendering_test_list_video_condition_id.json").write_text(json.dumps({"toy": 1, "gone": 0}))
    with pytest.raises(BadData, match="1 objects of the protocol are not there, the first: 'gone'"):
        scores(tmp_path, "viewfusion_gso")
    (root / "rendering_test_list_video_condition_id.json").write_text("[]")
    with pytest.raises(BadData, match="input view"):
        scores(tmp_path, "viewfusion_gso")


def test_ouroboros_gso100_pairs_eight_of_sixteen_views_in_order_and_scores_them_together(tmp_path):
    grays = [(100 + 8 * k) / 255 for k in range(16)]
    for k, gray in enumerate(grays):
        write_image(tmp_path / "gt" / "toy" / f"render_{k:04d}.png", flat([gray])[0])
    chosen = [0, 2, 4, 6, 8, 10, 12, 15]
    made = flat([grays[k] for k in chosen])
    made[3, :3, TINY // 2 :] += 26 / 255  # half of one view of eight
    write_views(tmp_path / "pred" / "toy", ViewSet(made, rig("ouroboros", size=TINY), "toy"))
    typed = (f"protocol.size={TINY}", "protocol.truth.files='render_{view}.png'")
    found = scores(tmp_path, "ouroboros_gso100", *typed)
    assert found["PSNR (dB)"] == pytest.approx(-10 * math.log10((26 / 255) ** 2 / 16), abs=0.05)
    assert 0.9 < found["SSIM (range of the views)"] < 1
    write_views(
        tmp_path / "pred" / "toy", ViewSet(made[:7], rig("ouroboros", size=TINY)[slice(0, 7)], "toy"), overwrite=True
    )
    with pytest.raises(UserError, match="7 views, the protocol scores 8 in their order"):
        scores(tmp_path, "ouroboros_gso100", *typed)


def test_common_finds_the_four_views_by_their_cameras_and_forgives_one_zoom(tmp_path):
    views = textured_sphere(size=96, num_views=12, radius=0.4)  # elevation 20
    write_views(tmp_path / "gt" / "toy", views)
    order = [9, 0, 3, 6]  # another numbering, and other views left out
    write_views(tmp_path / "pred" / "toy", ViewSet(views.images[order], views.cameras[order], "toy"))
    found = scores(tmp_path, "common", "protocol.size=96")
    assert found["PSNR (dB)"] == 100 and found["mask IoU"] == 1 and found["FLIP"] == 0
    smaller = textured_sphere(size=96, num_views=12, radius=0.3)
    write_views(tmp_path / "pred" / "toy", smaller, overwrite=True)
    free, fixed = (
        scores(tmp_path, "common", "protocol.size=96", f"protocol.alignment={how}") for how in ("zoom", "none")
    )
    assert free["mask IoU"] > 0.97 and fixed["mask IoU"] == pytest.approx((0.3 / 0.4) ** 2, abs=0.06)
    assert free["PSNR (dB)"] > fixed["PSNR (dB)"] + 2
    higher = rig("orbit", size=96, num_views=12, elevation_deg=30.0)
    write_views(tmp_path / "pred" / "toy", ViewSet(views.images, higher, "toy"), overwrite=True)
    with pytest.raises(UserError, match="the truth has no view within 1 degrees of predicted view 0"):
        scores(tmp_path, "common", "protocol.size=96")


def test_viewfusion_gso_circle_counts_matches_and_those_of_blank_views_fail(tmp_path):
    views = textured_sphere()
    (tmp_path / "gt" / "gso_renderings_elevation60" / "toy").mkdir(parents=True)
    write_views(tmp_path / "pred" / "toy", views)
    assert scores(tmp_path, "viewfusion_gso_circle", "protocol.size=128")["SIFT matches"] > 20
    write_views(tmp_path / "pred" / "toy", ViewSet(torch.ones_like(views.images), views.cameras, "toy"), overwrite=True)
    with pytest.raises(UserError, match="FAILED: every view is of one colour"):
        scores(tmp_path, "viewfusion_gso_circle", "protocol.size=128")


def test_viewfusion_gso_shapes_turns_by_the_inputs_azimuth_and_brings_to_one_size(tmp_path):
    solid = trimesh.creation.box((1.0, 0.4, 0.2)).subdivide()
    truth = Mesh(torch.tensor(solid.vertices).float(), torch.tensor(solid.faces))
    truth = Mesh(truth.vertices + torch.tensor([0.0, 0.0, 0.1]) * (truth.vertices[:, :1] > 0), truth.faces)
    root, azimuth = tmp_path / "gt", 0.7
    angles = root / "gso_renderings_elevation60" / "toy" / "angles.json"
    angles.parent.mkdir(parents=True)
    angles.write_text(json.dumps({"3": {"angle": [azimuth, 1.0, 1.5]}}))
    (root / "rendering_test_list_video_condition_id.json").write_text(json.dumps({"toy": 3}))
    (root / "toy" / "meshes").mkdir(parents=True)
    solid = trimesh.Trimesh(truth.vertices.numpy(), truth.faces.numpy(), process=False)
    solid.export(root / "toy" / "meshes" / "model.obj")
    relative = turned(Mesh(truth.vertices * 3 + 0.5, truth.faces), -azimuth)
    write_mesh(tmp_path / "pred" / "toy" / "mesh.ply", relative)
    exact = scores(tmp_path, "viewfusion_gso_shapes")
    assert exact["Chamfer (squared)"] < 1e-3 and exact["F-score"] == 1
    as_it_lies = scores(tmp_path, "viewfusion_gso_shapes", "protocol.turn=none")
    assert as_it_lies["Chamfer (squared)"] > 10 * exact["Chamfer (squared)"]
    aligned = scores(tmp_path, "viewfusion_gso_shapes", "protocol.turn=none", "protocol.icp_within=0.5")
    assert aligned["Chamfer (squared)"] < as_it_lies["Chamfer (squared)"] / 2
    larger = scores(tmp_path, "viewfusion_gso_shapes", "protocol.box=3.2")
    assert larger["Chamfer (squared)"] == pytest.approx(4 * exact["Chamfer (squared)"], rel=0.05)


def test_toybox_shapes_tells_also_whether_a_mesh_is_closed_and_in_one_piece(tmp_path):
    ball = trimesh.creation.icosphere(2, 0.4)
    two = trimesh.util.concatenate([ball, trimesh.creation.box((0.1, 0.1, 0.1)).apply_translation((0, 0, 0.45))])
    for folder, solid in (("gt", ball), ("pred", two)):
        mesh = Mesh(torch.tensor(solid.vertices).float(), torch.tensor(solid.faces))
        write_mesh(tmp_path / folder / "test-00000" / "mesh.ply", mesh)
    (tmp_path / "gt" / "test-00000" / "target").mkdir()
    found = scores(tmp_path, "toybox_shapes", "protocol.objects=[test-00000]", name="test-00000")
    assert (found["watertight"], found["components"]) == (1, 2) and 0.5 < found["normals"] < 1


def test_toybox_consistency_ranks_true_views_above_shuffled_ones(tmp_path):
    views = textured_sphere(size=64)
    half = views.images.clone()
    half[:, 3, :24] = 0  # every other view shows the lower part only
    (tmp_path / "gt" / "toy" / "target").mkdir(parents=True)
    found = []
    for images in (views.images, torch.where((torch.arange(16) % 2 == 0)[:, None, None, None], views.images, half)):
        write_views(tmp_path / "pred" / "toy", ViewSet(images, views.cameras, "toy"), overwrite=True)
        found.append(scores(tmp_path, "toybox_consistency"))
    assert all(found[0][column] > found[1][column] + 0.1 for column in found[0])


@pytest.mark.parametrize("name", ["syncdreamer_gso30_colmap", "common_colmap"])
def test_a_colmap_protocol_says_which_package_it_needs(name, monkeypatch):
    monkeypatch.setattr(sfm, "find_spec", lambda package: None)
    with pytest.raises(BadConfig, match="COLMAP needs the package pycolmap: pip install"):
        instantiate(config(name).protocol)


def test_a_shape_protocols_rasteriser_stands_in_its_settings_and_in_its_hash():
    ours, its = (plain(config(f"syncdreamer_gso30_shapes{end}").protocol) for end in ("", "_nvdiffrast"))
    key = ("shapes", "Chamfer (seen points)", "rasterizer")
    assert changed(ours, key, "nvdiffrast") | {"name": its["name"]} == its
    assert protocol_hash(ours) != protocol_hash(its) == protocol_hash(changed(ours, key, "nvdiffrast"))
    with pytest.raises(BadConfig, match="rasterizer=ours: expected one of cpu, nvdiffrast"):
        instantiate(changed(ours, key, "ours"))


def test_a_shape_protocol_with_nvdiffrast_is_refused_where_it_cannot_run(monkeypatch):
    chosen = config("syncdreamer_gso30_shapes_nvdiffrast").protocol
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(BadRequest, match=r"rasterizer=nvdiffrast: nvdiffrast is not installed .* use rasterizer=cpu$"):
        instantiate(chosen)
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadRequest, match=r"torch finds none here; use rasterizer=cpu$"):
        instantiate(chosen)


@pytest.mark.slow
def test_syncdreamer_gso30_colmap_counts_points_and_records_a_failure_as_a_result(tmp_path):
    assert find_spec("pycolmap"), "the slow tests need the extra colmap: make test-slow installs it"
    true, other = rendered_sphere().rgb(), rendered_sphere(seed=1).rgb()
    plain = torch.full_like(true, 0.5)
    plain[:, :, :2, :2] = 0  # so that no picture is of one colour
    parity = torch.arange(16)[:, None, None, None] % 2
    mixed = torch.where(parity == 0, true, other)  # every other view is of another object
    for name, images in (("toy", true), ("mixed", mixed), ("plain", plain)):
        (tmp_path / "gt" / f"{name}-gt").mkdir(parents=True)
        for k, image in enumerate(images):
            write_image(tmp_path / "pred" / f"{name}-pr" / f"{k:03d}.png", image)
    measured = scores(tmp_path, "syncdreamer_gso30_colmap", num_objects=3)["COLMAP points"]
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["objects"]["pred"]
    points = {name: outcome["scores"]["COLMAP points"] for name, outcome in found.items()}
    assert measured == points["toy"] > 300, points  # 515 when this was written
    assert found["toy"]["notes"]["COLMAP points"].startswith("16 of 16 views, error 0.")
    assert points["mixed"] < points["toy"] / 4, points
    assert points["plain"] == 0 and "no features were found" in found["plain"]["notes"]["COLMAP points"]


@pytest.mark.slow
def test_common_colmap_finds_the_poses_of_true_views_too_and_of_disagreeing_ones_fewer_points(tmp_path):
    assert find_spec("pycolmap"), "the slow tests need the extra colmap: make test-slow installs it"
    views = rendered_sphere()
    parity = torch.arange(16)[:, None, None, None] % 2
    mixed = torch.where(parity == 0, views.images, rendered_sphere(seed=1).images)
    for name, images in (("toy", views.images), ("mixed", mixed)):
        (tmp_path / "gt" / name).mkdir(parents=True)
        write_views(tmp_path / "pred" / name, ViewSet(images, views.cameras, name))
    found = scores(tmp_path, "common_colmap", num_objects=2)
    mixed = json.loads((tmp_path / "out" / "scores.json").read_text())["objects"]["pred"]["mixed"]["scores"]
    assert set(found) == {"COLMAP points", "COLMAP points (unknown poses)"}
    for column, points in found.items():
        assert points > 300 and mixed[column] < points / 2, (column, points, mixed[column])


def test_common_features_measures_how_well_matches_meet_by_the_cameras(tmp_path):
    views = textured_sphere()
    (tmp_path / "gt" / "toy").mkdir(parents=True)
    write_views(tmp_path / "pred" / "toy", views)
    true = scores(tmp_path, "common_features", "protocol.size=128")
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    notes = found["objects"]["pred"]["toy"]["notes"]
    assert notes == {"reprojection error (pixels)": "16 of 16 pairs of neighbours have matches"}
    assert true["SIFT matches"] > 20 and true["reprojection error (pixels)"] < 0.3
    higher = rig("orbit", size=128, num_views=16, elevation_deg=60.0)
    write_views(tmp_path / "pred" / "toy", ViewSet(views.images, higher, "toy"), overwrite=True)
    wrong = scores(tmp_path, "common_features", "protocol.size=128")
    assert wrong["SIFT matches"] == true["SIFT matches"]
    assert wrong["reprojection error (pixels)"] > 4 * true["reprojection error (pixels)"]
    plain = torch.ones_like(views.images)
    plain[:, :3, :2, :2] = 0
    write_views(tmp_path / "pred" / "toy", ViewSet(plain, views.cameras, "toy"), overwrite=True)
    with pytest.raises(UserError, match="FAILED: no two neighbouring views have a matching feature"):
        scores(tmp_path, "common_features", "protocol.size=128")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("+protocol.box=1.6", "nothing reads it without shapes"),
        ("+protocol.turn=input_azimuth", "nothing reads it without shapes"),
        ("+protocol.mask=flood", "nothing reads it without masks"),
        ("+protocol.crop=0.0", "a number above 0"),
        ("+protocol.match=camera", "match=camera and azimuths_deg need each other"),
        ("+protocol.azimuths_deg=[0.0]", "match=camera and azimuths_deg need each other"),
        ("+protocol.match_within_deg=3.0", "match=camera only"),
        ("+protocol.score_input=false", "needs input_view"),
        ("+protocol.alignment=icp", "none, zoom"),
        ("+protocol.truth.files=picture.png", "a file name with one"),
    ],
)
def test_a_setting_that_nothing_reads_or_that_contradicts_another_is_refused(typed, words):
    with pytest.raises(BadConfig, match=words):
        instantiate(config("toybox", typed).protocol)
