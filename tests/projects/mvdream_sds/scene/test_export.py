"""Scenes as meshes and orbits: shapes and colours of a field that is known, files that others open, refusals."""

import json

import pytest
import torch
import trimesh
from torch import nn

from core.errors import BadConfig, BadMesh, BadRequest, MissingWeights
from core.mesh.export import read_mesh
from core.mesh.gltf_rules import check_glb
from projects.mvdream_sds import export as export_program
from projects.mvdream_sds import render as render_program
from projects.mvdream_sds.export import formats_of
from projects.mvdream_sds.scene import exporting, filming
from projects.mvdream_sds.scene.background import SolidBackground
from projects.mvdream_sds.scene.geometry import ImplicitVolume, Matter
from projects.mvdream_sds.scene.loading import Loaded, load_run
from projects.mvdream_sds.scene.materials import NoMaterial
from projects.mvdream_sds.scene.occupancy import SceneOccupancy
from projects.mvdream_sds.scene.renderer import VolumeRenderer
from projects.mvdream_sds.scene.scene import Scene
from tests.projects.mvdream_sds.scene.test_learning import program

RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9])
HALF = torch.tensor([0.3, 0.2, 0.25])  # of the box


class TwoColoredBox(ImplicitVolume):
    """A field that is known: a box, red in front (x > 0) and blue behind, dense inside and with a thin haze around."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.radius, self.normal_type = 0.6, None
        self.place = nn.Parameter(torch.zeros(()))

    def update_step(self, step: int) -> None:
        pass

    def density(self, points):
        outside = (points.abs() - HALF).amax(-1, keepdim=True)
        return 200 * torch.sigmoid(-outside * 400) + 0.05

    def forward(self, points, *, normals=None):
        rgb = torch.where(points[..., :1] > 0, RED, BLUE)
        return Matter(self.density(points), rgb.logit(), torch.zeros_like(points) if normals else None)


@pytest.fixture(scope="module")
def box() -> Scene:
    occupancy = SceneOccupancy(bound=0.6, resolution=16)
    renderer = VolumeRenderer(occupancy=occupancy, num_samples_per_ray=96)
    scene = Scene.__new__(Scene)
    nn.Module.__init__(scene)
    scene.geometry, scene.material, scene.background = TwoColoredBox(), NoMaterial(), SolidBackground()
    scene.renderer = renderer
    looks = torch.Generator().manual_seed(0)
    for step in range(0, 240, 16):  # one look at a random point of a cell can miss the box's edge
        scene.update_step(step, looks)
    return scene.eval().requires_grad_(False)


@pytest.fixture
def source(box, tmp_path, monkeypatch):
    """The programs read this box as if a run had made it."""
    (tmp_path / "scene").write_text("x")
    orbit = {"elevation_deg": 20.0, "distance": 1.5, "fovy_deg": 49.0, "width": 64, "height": 64}
    loaded = Loaded(box, 7, "a box", tmp_path / "scene", "0" * 64, orbit)
    for module in (exporting, filming):
        monkeypatch.setattr(module, "load_source", lambda config: loaded)
    return loaded


@pytest.mark.slow
def test_a_known_field_becomes_the_mesh_that_one_sees_in_its_colours(source, tmp_path):
    record = exporting.export(
        program(
            "mvdream_sds_export", "run=x", f"out={tmp_path}", "isosurface.resolution=40", "texture_size=128",
            "num_views=8", "format=glb,obj,ply".replace(",", "\\,"),
        )
    )  # fmt: skip
    folder = tmp_path / "mesh"
    assert {"mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.ply", "field_and_mesh.png"} <= set(record["files"])
    check_glb(folder / "mesh.glb")
    # Another program's reader: y is up there, x (the front) is z.
    loaded = trimesh.load(folder / "mesh.glb", force="mesh")
    assert loaded.is_watertight is False, "its seams are cut; merged by place it is closed"
    loaded.merge_vertices(merge_tex=True, merge_norm=True)
    assert loaded.is_watertight and loaded.volume == pytest.approx(8 * HALF.prod().item(), rel=0.15)
    assert loaded.extents == pytest.approx((2 * HALF)[[1, 2, 0]].tolist(), abs=0.03)
    for name in ("mesh.glb", "mesh.obj", "mesh.ply"):
        mesh = read_mesh(folder / name)
        front, back = (mesh.colors[side] for side in (mesh.vertices[:, 0] > 0.05, mesh.vertices[:, 0] < -0.05))
        assert (front - RED).abs().mean() < 0.02 and (back - BLUE).abs().mean() < 0.02, name
    assert 1 < record["threshold"] < 190, "inside the border, and above the haze"
    assert record["fidelity"]["psnr"] > 26 and record["fidelity"]["silhouettes"] > 0.95
    again = json.loads((folder / "result.json").read_text())
    assert again["fidelity"] == record["fidelity"] and again["mesh"]["watertight"]


def test_a_field_that_shows_nothing_has_no_surface(source, monkeypatch):
    monkeypatch.setattr(TwoColoredBox, "density", lambda self, points: torch.full_like(points[..., :1], 1e-4))
    with pytest.raises(BadMesh, match=r"surface is empty.*train longer"):
        exporting.export(program("mvdream_sds_export", "run=x", "out=unused"))


def test_an_orbit_goes_once_around_as_a_view_set_and_a_video(source, tmp_path):
    from core.views import read_views

    cfg = program("mvdream_sds_render", "run=x", f"out={tmp_path}", "num_views=4", "size=32", "panels=[rgb,opacity]")
    record = filming.render(cfg)
    views = read_views(tmp_path / "orbit/views")
    assert (len(views), views.caption, views.images.shape[-1]) == (4, "a box", 32)
    azimuths = torch.rad2deg(torch.atan2(views.cameras.centers[:, 1], views.cameras.centers[:, 0])) % 360
    assert azimuths.tolist() == pytest.approx([0, 90, 180, 270], abs=1e-3)
    middle = views.images[:, :, 16, 16]
    assert (middle[0, :3] - RED).abs().max() < 0.05 and (middle[2, :3] - BLUE).abs().max() < 0.05
    assert (middle[:, 3] > 0.9).all() and (views.images[:, 3, 0, 0] < 0.2).all()
    assert (tmp_path / "orbit" / record["files"][1]).stat().st_size > 0
    assert filming.render(cfg) == record, "done before: skipped"
    cfg.size = 16
    with pytest.raises(BadRequest, match="overwrite=true"):
        filming.render(cfg)


def test_a_folder_that_is_no_run_and_a_step_that_was_not_kept_are_named(tmp_path):
    with pytest.raises(MissingWeights, match=r"no checkpoint there.*projects\.mvdream_sds\.train"):
        load_run(tmp_path)
    with pytest.raises(MissingWeights, match=r"no checkpoint of step 3; there are none"):
        load_run(tmp_path, step=3)
    for name in ("step_00000002", "step_00000003.broken-1"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    with pytest.raises(MissingWeights, match=r"no checkpoint of step 3; there are \[2\]"):
        load_run(tmp_path, step=3)


def test_a_published_scene_counts_by_its_file_and_the_settings_of_its_parts(box, tmp_path):
    same, other = (
        Loaded(box, 7, None, tmp_path, "0" * 64, {}, {"material": {"ambient_only_steps": steps}}) for steps in (0, 1)
    )
    assert same.identity != other.identity and same.identity["scene"] == other.identity["scene"]
    assert Loaded(box, 7, None, tmp_path, "0" * 64, {}).identity == {"scene": "0" * 64}


@pytest.mark.parametrize(
    ("module", "changes", "said"),
    [
        (export_program, {"run": None}, "give run=DIR"),
        (export_program, {"weights": "last.ckpt"}, "give run=DIR"),
        (export_program, {"format": "glb,stl"}, "format=stl: choose one of glb, obj, ply"),
        (export_program, {"threshold": "low"}, "threshold=low"),
        (export_program, {"threshold": 0}, "threshold=0"),
        (export_program, {"texture_size": 1}, "texture_size=1"),
        (export_program, {"isosurface": {"threshold": 5}}, "isosurface.threshold=5: set threshold= itself"),
        (render_program, {"run": None, "weights": "last.ckpt"}, "scene=mvdream_sd21"),
        (render_program, {"size": 8}, "size=8"),
        (render_program, {"num_views": 0}, "num_views=0"),
        (render_program, {"panels": ["depth"]}, "panels=depth"),
        (render_program, {"panels": []}, "panels is empty; choose some of rgb, normal, opacity"),
        (render_program, {"fov": 180}, "fov=180"),
    ],
)
def test_what_no_mesh_or_orbit_can_be_made_with_is_refused(module, changes, said):
    cfg = dict(program(module.main.program.config_name, "run=x"))
    with pytest.raises(BadConfig) as caught:
        module.check({**cfg, **changes})
    assert said in str(caught.value)


def test_formats_are_words_in_any_order_each_once():
    assert formats_of("ply, glb,.glb") == ["ply", "glb"] and formats_of(["obj"]) == ["obj"]
    with pytest.raises(BadConfig):
        formats_of([])
