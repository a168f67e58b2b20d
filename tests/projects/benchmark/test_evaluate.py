"""One table for all methods: known answers, gaps that are never hidden, protocols that decide every number."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
import trimesh

import core.metrics.images as core_images
from core.cameras.rigs import rig
from core.config import instantiate
from core.errors import BadConfig, BadData, BadMesh, BadOutput, UserError
from core.images import read_image
from core.mesh.export import read_mesh, write_mesh
from core.mesh.place import turned, unit_cube
from core.settings import composed, settings
from core.types import Mesh
from core.views import ViewSet, write_views
from projects.benchmark import evaluate as program
from projects.benchmark.evaluation import evaluate, methods_of
from projects.benchmark.solids import (
    Shape,
    depth_points,
    posed_volume_iou,
    read_depth,
    surface_chamfer,
    visible_chamfer,
)
from projects.benchmark.truth import truth_record
from tests.golden_fixture import load

SIZE = 64


def a_view_set(folder: Path, images: torch.Tensor) -> None:
    write_views(folder, ViewSet(images, rig("syncdreamer", size=SIZE), folder.name))


def true_images(seed: int) -> torch.Tensor:
    images = torch.zeros(16, 4, SIZE, SIZE)
    color = torch.rand(16, 3, 1, 1, generator=torch.Generator().manual_seed(seed)).mul(255).round() / 255
    images[:, :3], images[:, 3] = color, 0.0
    images[:, 3, 16:48, 16:48] = 1.0
    return images


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for number in range(3):
        a_view_set(tmp_path / "gt" / f"test-{number:05d}" / "target", true_images(number))
        a_view_set(tmp_path / "same" / f"test-{number:05d}", true_images(number))
    return tmp_path


def run(folders: Path, *arguments: str):
    """By the program; the protocol is one of the 3 objects there, unless `arguments` say otherwise."""
    partial = [] if any(given.startswith("protocol") for given in arguments) else ["protocol.num_objects=3"]
    arguments = (*partial, *arguments)
    typed = [f"gt={folders / 'gt'}", "protocol=toybox", f"out={folders / 'out'}", "overwrite=true", *arguments]
    cfg = settings(program.main.program, composed(program.main.program, typed))
    return evaluate(cfg)


def written(folders: Path) -> dict:
    return json.loads((folders / "out" / "scores.json").read_text())


def test_equal_views_score_the_best_and_shifted_blurred_and_smaller_ones_worse(folders):
    changes = {
        "shifted": lambda x: x.roll(3, dims=-1),
        "blurred": lambda x: torch.nn.functional.avg_pool2d(x, 5, 1, 2),
        "smaller": lambda x: torch.nn.functional.pad(x[..., 8:-8, 8:-8][..., ::2, ::2], (20, 20, 20, 20)),
    }
    for name, change in changes.items():
        a_view_set(folders / name / "test-00000", change(true_images(0)))
    names = ", ".join(f"{name}: {folders / name}" for name in ("same", *changes))
    summary = run(folders, f"pred={{{names}}}", "+protocol.objects=[test-00000]", "protocol.num_objects=1")["summary"]
    assert summary["same"]["PSNR (dB)"]["mean"] == 100 and summary["same"]["SSIM"]["mean"] == pytest.approx(1, abs=1e-4)
    assert summary["same"]["FLIP"]["mean"] == 0
    for name in changes:
        assert summary[name]["PSNR (dB)"]["mean"] < 30 and summary[name]["FLIP"]["mean"] > 0.02, name
        assert summary[name]["SSIM"]["mean"] < 0.99, name
    assert read_image(folders / "out" / "overview.png").shape[1:] == (5 * SIZE, 8 * SIZE)
    table = (folders / "out" / "table.md").read_text()
    assert "| same | 1 of 1 | **100.00** |" in table and "| 16 views |\n| shifted |" in table and "| 0 views |" in table


def test_a_constant_error_has_the_score_of_its_formula(folders):
    images = true_images(0)
    images[:, :3], images[:, 3] = 0.2, 1.0
    images[:, :3, 20:30, 20:30] = 0.4
    brighter = images.clone()
    brighter[:, :3] += 0.2
    a_view_set(folders / "gt2" / "test-00000" / "target", images)
    a_view_set(folders / "pred" / "test-00000", brighter)
    found = run(folders, f"gt={folders / 'gt2'}", f"pred={folders / 'pred'}", "protocol.num_objects=1")
    summary = found["summary"]["pred"]
    assert summary["PSNR (dB)"]["mean"] == pytest.approx(-20 * math.log10(0.2), abs=1e-3)


def test_empty_and_constant_predictions_and_measures_without_a_finite_number_fail_with_their_cause(
    folders, monkeypatch
):
    a_view_set(folders / "bad" / "test-00000", true_images(0) * 0)
    a_view_set(folders / "bad" / "test-00001", torch.full((16, 4, SIZE, SIZE), 0.5))
    a_view_set(folders / "bad" / "test-00002", true_images(2))
    with pytest.raises(UserError, match="2 of 3 objects were not scored"):
        run(folders, f"pred={folders / 'bad'}")
    found = list(written(folders)["objects"]["bad"].values())
    assert [outcome["status"] for outcome in found] == ["FAILED", "FAILED", "SCORED"]
    assert all("nothing was predicted" in o["cause"] and not o["scores"] for o in found[:2])

    broken = torch.full((16,), torch.nan)
    monkeypatch.setattr(core_images, "structural_similarity_index_measure", lambda a, b, data_range: broken[0])
    with pytest.raises(UserError, match=r"test-00000: FAILED: SSIM is nan: no finite number"):
        run(folders, f"pred={folders / 'same'}")
    found = written(folders)
    assert found["summary"]["same"]["PSNR (dB)"] is None and found["summary"]["same"]["scored"] == "0 of 3"


def test_what_is_missing_or_broken_is_listed_and_counted_and_the_rest_is_scored(folders):
    (folders / "same" / "test-00001" / "images" / "004.png").write_bytes(b"not a picture")
    for file in sorted((folders / "same" / "test-00002").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (folders / "same" / "test-00002").rmdir()
    with pytest.raises(UserError, match=r"2 of 3 objects were not scored .*test-00001: FAILED: .*004.png"):
        run(folders, f"pred={folders / 'same'}")
    found = written(folders)
    assert [o["status"] for o in found["objects"]["same"].values()] == ["SCORED", "FAILED", "MISSING"]
    assert found["summary"]["same"]["scored"] == "1 of 3"
    assert found["summary"]["same"]["PSNR (dB)"] == {"mean": 100.0, "objects": 1, "of": 3}
    page = (folders / "out" / "report.html").read_text()
    assert "test-00001: FAILED" in page and "test-00002: MISSING" in page


def test_a_table_over_fewer_objects_than_the_protocol_has_is_written_and_refused(folders, capsys):
    a_view_set(folders / "same" / "test-00007", true_images(7))
    given = [f"pred={folders / 'same'}", f"gt={folders / 'gt'}", "protocol=toybox", f"out={folders / 'out'}"]
    with pytest.raises(SystemExit) as ended:
        program.main(given)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and "has 3 objects, protocol toybox has 30" in error
    assert "(predicted, but not there: test-00007)" in error and "protocol.num_objects=3" in error
    found = written(folders)
    assert found["summary"]["same"]["scored"] == "3 of 30" and found["not_scored"] == [error.removeprefix("error: ")]
    assert "test-00007" in (folders / "out" / "report.html").read_text()


def test_predicted_objects_that_the_truth_lacks_are_told_where_the_protocol_has_no_number(folders):
    a_view_set(folders / "same" / "test-00007", true_images(7))
    with pytest.raises(UserError, match=r"lacks 1 objects that were predicted: test-00007;.*num_objects=3"):
        run(folders, f"pred={folders / 'same'}", "protocol.num_objects=null")
    assert written(folders)["summary"]["same"]["scored"] == "3 of 3"
    run(folders, f"pred={folders / 'same'}", "protocol.num_objects=3")


def test_a_table_says_which_objects_and_files_it_was_measured_against(folders):
    def truth(gt: str = "gt", *changes: str) -> dict:
        typed = ["pred=x", "gt=y", "protocol=toybox", *changes]
        protocol = instantiate(settings(program.main.program, composed(program.main.program, typed)).protocol)
        return truth_record(protocol, folders / gt, protocol.names(folders / gt))

    first = run(folders, f"pred={folders / 'same'}")["truth"]
    assert first["objects"] == [f"test-{number:05d}" for number in range(3)] and truth() == first
    (folders / "gt" / "test-00001" / "target" / "provenance.json").write_text("{}")
    assert truth() == first
    fewer = truth("gt", "+protocol.objects=[test-00000]")
    a_view_set(folders / "gt3" / "test-00000" / "target", true_images(5))
    assert len({first["sha256"], fewer["sha256"], truth("gt3")["sha256"]}) == 3


@pytest.mark.slow
def test_a_mean_over_fewer_objects_is_not_the_best(folders):
    for number in range(2):
        a_view_set(folders / "worse" / f"test-{number:05d}", true_images(number).roll(2, dims=-1))
    with pytest.raises(UserError, match="1 of 6 objects were not scored"):
        run(folders, f"pred={{worse: {folders / 'worse'}, shifted: {folders / 'same'}}}")
    (folders / "same" / "test-00001" / "images" / "000.png").unlink()
    with pytest.raises(UserError, match="2 of 6"):
        run(folders, f"pred={{worse: {folders / 'worse'}, shifted: {folders / 'same'}}}")
    assert "**" not in (folders / "out" / "table.md").read_text()


@pytest.mark.slow
def test_a_method_sampled_several_times_scores_the_mean_of_its_samples_object_by_object(folders):
    for number in range(3):
        for sample, shift in enumerate((2, 4)):
            moved = true_images(number).roll(shift, dims=-1)
            a_view_set(folders / f"moved{sample}" / f"test-{number:05d}", moved)
    both = f"[{folders / 'moved0'}, {folders / 'moved1'}]"
    methods = f"pred={{moved: {both}, less: {folders / 'moved0'}, more: {folders / 'moved1'}}}"
    found = run(folders, methods, "reference=less")
    mean, less, more = (
        [found["objects"][method][f"test-{number:05d}"]["scores"]["PSNR (dB)"] for number in range(3)]
        for method in ("moved", "less", "more")
    )
    assert mean == pytest.approx([(a + b) / 2 for a, b in zip(less, more, strict=True)])
    assert found["objects"]["moved"]["test-00000"]["samples"][1]["PSNR (dB)"] == pytest.approx(more[0])
    apart = found["differences"]["more"]["PSNR (dB)"]
    assert set(found["differences"]) == {"moved", "more"}
    assert apart["mean"] == pytest.approx(sum(more) / 3 - sum(less) / 3) and apart["high"] < 0
    written_table = (folders / "out" / "table.md").read_text()
    assert "Minus less, object by object:" in written_table and "**" not in written_table.split("Minus")[1]
    assert "Minus less, object by object" in (folders / "out" / "report.html").read_text()
    (folders / "moved1" / "test-00001" / "images" / "003.png").unlink()
    with pytest.raises(UserError, match="2 of 9 objects were not scored"):
        run(folders, methods, "reference=less")
    assert written(folders)["objects"]["moved"]["test-00001"]["cause"].startswith("sample 1: ")
    assert written(folders)["differences"]["moved"]["objects"] == "2 of 3"


def test_wrong_samples_and_references_are_refused(folders):
    with pytest.raises(BadConfig, match=r"pred: same names a folder twice"):
        methods_of({"same": [folders / "same", folders / "same"]})
    with pytest.raises(BadConfig, match=r"pred=\{Name: \[DIR, DIR\]\}"):
        methods_of(["a", "b"])
    with pytest.raises(BadConfig, match=r"^reference="):
        run(folders, f"pred={folders / 'same'}", "reference=other")


@pytest.mark.slow
def test_scores_of_another_protocol_are_not_lost_and_old_pictures_do_not_stay(folders):
    given = [f"pred={folders / 'same'}", "protocol.num_objects=3"]
    run(folders, *given)
    assert (folders / "out" / "overview.png").is_file()
    other = [*given, "overwrite=false", "protocol.background=0.5"]
    with pytest.raises(BadOutput, match=r"by other settings or of another truth \(protocol toybox, .*overwrite=true"):
        run(folders, *other)
    assert written(folders)["protocol"]["settings"]["background"] == 1.0
    a_view_set(folders / "gt2" / "test-00000" / "target", true_images(9))
    for number in (1, 2):
        a_view_set(folders / "gt2" / f"test-{number:05d}" / "target", true_images(number))
    with pytest.raises(BadOutput, match="of another truth"):
        run(folders, *given, "overwrite=false", f"gt={folders / 'gt2'}")
    run(folders, *given, "overwrite=false")
    for number in range(3):
        a_view_set(folders / "bad" / f"test-{number:05d}", true_images(0) * 0)
    with pytest.raises(UserError, match="3 of 3"):
        run(folders, f"pred={folders / 'bad'}", "protocol.num_objects=3")
    assert not (folders / "out" / "overview.png").exists()


def test_the_page_shows_every_object_of_every_method_with_its_status(folders):
    (folders / "other" / "test-00001").mkdir(parents=True)
    a_view_set(folders / "other" / "test-00000", true_images(0).roll(1, dims=-1))
    with pytest.raises(UserError, match="2 of 6 objects were not scored"):
        run(folders, f"pred={{same: {folders / 'same'}, other: {folders / 'other'}}}")
    sections = (folders / "out" / "report.html").read_text().split("<section>")[1:]
    assert len(sections) == 3 and ">MISSING: no " in sections[2]
    assert all(
        text in sections[0] for text in ("from the top: truth, same, other", ">SCORED<", "16 views are identical")
    )
    assert "from the top: truth, same)" in sections[1] and ">FAILED: " in sections[1]


@pytest.mark.parametrize("content", ["{broken", "7"])
def test_a_broken_record_of_where_predictions_come_from_costs_no_score(folders, content):
    (folders / "same" / "test-00000" / "provenance.json").write_text(content)
    run(folders, f"pred={folders / 'same'}")
    found = written(folders)
    assert found["summary"]["same"]["scored"].startswith("3 of") and "unknown" in found["predictions"]["same"]


def test_views_of_another_size_or_number_fail_without_being_resized_or_cut(folders):
    small = ViewSet(torch.rand(16, 4, 32, 32), rig("syncdreamer", size=32), "small")
    write_views(folders / "bad" / "test-00000", small)
    few = ViewSet(true_images(1)[:8], rig("syncdreamer", size=SIZE, num_views=8), "few")
    write_views(folders / "bad" / "test-00001", few)
    a_view_set(folders / "bad" / "test-00002", true_images(2))
    with pytest.raises(UserError, match="2 of 3 objects"):
        run(folders, f"pred={folders / 'bad'}")
    causes = [outcome["cause"] for outcome in written(folders)["objects"]["bad"].values()]
    assert "32 x 32 pixels, the protocol wants 64 x 64" in causes[0]
    assert "8 views of (64, 64) pixels, the truth has 16" in causes[1]


def test_wrong_folders_are_one_line(folders):
    with pytest.raises(BadConfig, match=r"pred: no folder .*nowhere"):
        run(folders, f"pred={folders / 'nowhere'}")
    with pytest.raises(BadData, match=r"no object there; this protocol expects folders '\{object\}/target'"):
        run(folders, f"gt={folders / 'same'}", f"pred={folders / 'same'}")
    with pytest.raises(BadConfig, match="at least one"):
        methods_of({})
    a_view_set(folders / "others" / "test-99999" / "target", true_images(0))
    with pytest.raises(BadData, match="8 objects of the protocol are not there, the first: 'test-00000'"):
        run(folders, f"gt={folders / 'others'}", "protocol=toybox_shapes", f"pred={folders / 'same'}")


@pytest.mark.slow
def test_methods_are_named_on_the_command_line(folders, capsys):
    methods = f"pred={{same views: {folders / 'same'}, again: {folders / 'same'}}}"
    given = [f"gt={folders / 'gt'}", f"out={folders / 'out'}", "protocol=toybox", "protocol.num_objects=3"]
    program.main([methods, *given])
    assert list(written(folders)["summary"]) == ["same views", "again"]


def test_a_measure_that_does_not_exist_or_takes_no_such_setting_is_refused(folders):
    with pytest.raises(BadConfig, match="sigma"):
        run(folders, f"pred={folders / 'same'}", "+protocol.images.SSIM.sigma=1")
    for wrong in ("views=[]", "objects=[]", "views=[3,3]"):
        with pytest.raises(BadConfig, match="name at least one, each once"):
            run(folders, f"pred={folders / 'same'}", f"+protocol.{wrong}")
    with pytest.raises(BadConfig, match="background"):
        run(folders, f"pred={folders / 'same'}", "protocol.background=2.0")


def mesh_of(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces))


@pytest.mark.slow
def test_a_shapes_distance_grows_with_its_shift_and_an_empty_prediction_fails(folders, tmp_path):
    ball = mesh_of(trimesh.creation.icosphere(subdivisions=2, radius=0.5))
    names = ("test-00000", "test-00003", "test-00004")
    for name in names:
        a_view_set(tmp_path / "gt8" / name / "target", true_images(0))
        write_mesh(tmp_path / "gt8" / name / "mesh.ply", ball)
        for method, shift in (("near", 0.02), ("far", 0.3)):
            moved = Mesh(ball.vertices + torch.tensor([shift, 0.0, 0.0]), ball.faces)
            write_mesh(tmp_path / method / name / "mesh.ply", moved)
    arguments = [
        f"pred={{near: {tmp_path / 'near'}, far: {tmp_path / 'far'}}}", f"gt={tmp_path / 'gt8'}",
        "protocol=toybox_shapes", "protocol.shapes.Chamfer.num_points=2000",
    ]  # fmt: skip
    summary = run(folders, *arguments, "protocol.objects=[test-00000]", "protocol.num_objects=1")["summary"]
    assert summary["near"]["scored"] == "1 of 1"
    assert 0.005 < summary["near"]["Chamfer"]["mean"] < 0.03 < 0.1 < summary["far"]["Chamfer"]["mean"] < 0.3
    page = (folders / "out" / "report.html").read_text()
    assert page.count("<canvas") == 3 and page.count("from the top: truth, near, far") == 1
    (tmp_path / "far" / "test-00003" / "mesh.ply").write_bytes(b"ply\n")
    (tmp_path / "far" / "test-00004" / "mesh.ply").unlink()
    with pytest.raises(UserError, match="2 of 4 objects"):
        run(folders, *arguments, "protocol.objects=[test-00003,test-00004]", "protocol.num_objects=2")
    assert [outcome["status"] for outcome in written(folders)["objects"]["far"].values()] == ["FAILED", "MISSING"]


def test_the_table_of_turns_is_the_official_one():
    official = load("syncdreamer", "eval_metrics")[0]["rotate_angle_deg"]
    typed = ["pred=x", "gt=y", "protocol=syncdreamer_gso30_shapes"]
    cfg = settings(program.main.program, composed(program.main.program, typed))
    assert dict(cfg.protocol.shapes["volume IoU"].turns_deg) == {k: v for k, v in official.items() if k != "other"}


def test_turning_and_scaling_do_what_they_say():
    mesh = Mesh(torch.tensor([[1.0, 0, 0], [3, 0, 0], [1, 1, 0]]), torch.tensor([[0, 1, 2]]))
    assert torch.allclose(turned(mesh, math.pi / 2).vertices[1], torch.tensor([0.0, 3, 0]), atol=1e-6)
    unit = unit_cube(mesh).vertices
    assert torch.allclose(unit.amax(dim=0), torch.tensor([0.5, 0.25, 0.0])) and unit.amin() == -0.5
    with pytest.raises(BadMesh, match="without extent"):
        unit_cube(Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]])))


chicken = pytest.mark.skipif("TURNTABLE_DATA" not in os.environ, reason="TURNTABLE_DATA names no folder of real data")


@chicken
def test_the_chicken_has_its_published_scores(folders):
    root = Path(os.environ["TURNTABLE_DATA"]) / "gso_chicken"
    typed = (f"gt={root}", f"pred={root}", "protocol=syncdreamer_gso30", "protocol.num_objects=1")
    found = run(folders, *typed)["objects"]["gso_chicken"]
    assert found["chicken"]["scores"]["PSNR (dB)"] == pytest.approx(25.41291, abs=1e-5)
    assert found["chicken"]["scores"]["SSIM (range of the data)"] == pytest.approx(0.89430, abs=5e-6)


@chicken
@pytest.mark.parametrize("case", ["identity", "shift_x_0.02", "scale_1.05", "rotz_10deg", "no_gt_rotation"])
def test_the_chickens_meshes_have_their_official_distances(case):
    root = Path(os.environ["TURNTABLE_DATA"]) / "gso_chicken"
    expected = load("syncdreamer", "eval_metrics")[0]["results"]["chicken_mesh"][case]
    truth = Shape("chicken", read_mesh(root / "chicken-mesh" / "meshes" / "model.obj"), root / "chicken-gt")
    posed = turned(unit_cube(truth.mesh), math.radians(-270))
    made = {
        "identity": posed,
        "shift_x_0.02": Mesh(posed.vertices + torch.tensor([0.02, 0, 0]), posed.faces),
        "scale_1.05": Mesh(posed.vertices * 1.05, posed.faces),
        "rotz_10deg": turned(posed, math.radians(10)),
        "no_gt_rotation": unit_cube(truth.mesh),
    }[case]
    assert visible_chamfer(Shape("made", made), truth) == pytest.approx(expected["chamfer"], rel=1e-3, abs=5e-6)
    assert posed_volume_iou(Shape("made", made), truth, turns_deg={"chicken": 270.0}) == pytest.approx(
        expected["iou"], abs=1e-9
    )
    assert surface_chamfer(truth, truth) < 0.01
    assert len(depth_points(root / "chicken-gt")) == pytest.approx(expected["n_gt_points"], abs=30)
    assert read_depth(root / "chicken-gt" / "000-depth.png").max() < 2.4
