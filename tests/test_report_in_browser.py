"""A report looked at in a real browser that may reach nothing: pictures, mesh and script all work.

Runs where a Chromium is on PATH (Debian: apt-get install chromium).
"""

import shutil
import subprocess

import numpy as np
import pytest
import torch
import trimesh

from core.cameras.rigs import rig
from core.images import read_image
from core.mesh.export import write_mesh
from core.report import Model, ReportItem, write_report
from core.types import Mesh
from core.views import ViewSet, write_views
from projects.benchmark import evaluate

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
    "--force-prefers-reduced-motion",
    "--virtual-time-budget=5000",
    "--enable-logging=stderr",
    "--window-size=1200,1400",
]
MAGENTA, CYAN, YELLOW, GREEN = (1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 0.0)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no Chromium on PATH")]


def plain(color, *size: int) -> torch.Tensor:
    return torch.tensor(color)[:, None, None].expand(*size, 3, 32, 32)


def look(page, tmp_path, *flags: str) -> str:
    """What the browser prints; any message of the page's own script is a failure."""
    offline = ("--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND")
    done = subprocess.run(
        [BROWSER, *FLAGS, *offline, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    messages = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    assert not [line for line in messages if "GL Driver Message (OpenGL, Performance" not in line], messages
    return done.stdout


def share(screenshot, color) -> float:
    """The part of a picture that has a colour, but for its last bits."""
    pixels = read_image(screenshot)[:3]
    return float((pixels - torch.tensor(color)[:, None, None]).abs().amax(dim=0).lt(0.1).float().mean())


@pytest.fixture
def page(tmp_path):
    ball = trimesh.creation.icosphere(2)
    vertices = torch.tensor(np.asarray(ball.vertices)).float()
    mesh = Mesh(vertices, torch.tensor(np.asarray(ball.faces)), torch.tensor(GREEN).expand_as(vertices))
    item = ReportItem(
        "ball", {"mine": plain(MAGENTA, 4), "truth": plain(CYAN, 4)}, source=plain(YELLOW), models={"": Model(mesh)}
    )
    rows = {
        "ours": {"scored": "4 of 4", "PSNR (dB)": {"mean": 20.0, "low": 19.0, "high": 21.0}},
        "theirs": {"PSNR (dB)": 10.0},
    }
    path = tmp_path / "my report é.html"
    write_report(path, title="A page", items=[item], metrics=rows, provenance={"seed": 0})
    return path


def test_a_browser_shows_every_picture_and_draws_the_mesh(page, tmp_path):
    look(page, tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    colors = {"views": MAGENTA, "truth": CYAN, "input": YELLOW, "mesh": GREEN}
    seen = {what: share(tmp_path / "page.png", color) for what, color in colors.items()}
    assert all(part > 0.004 for part in seen.values()), seen


@pytest.fixture
def evaluated(tmp_path):
    """What `evaluate` leaves of two objects, whose views and meshes differ from the truth's; the second has none."""
    ball = trimesh.creation.icosphere(2, radius=0.5)
    vertices = torch.tensor(np.asarray(ball.vertices)).float()
    for folder, color, solid in (
        ("gt/a/target", CYAN, YELLOW),
        ("gt/b/target", CYAN, YELLOW),
        ("pred/a", MAGENTA, GREEN),
    ):
        images = torch.zeros(16, 4, 64, 64)
        images[:, :, 12:52, 12:52] = torch.tensor((*color, 1.0))[:, None, None]
        write_views(tmp_path / folder, ViewSet(images, rig("syncdreamer", size=64), "object"))
        place = tmp_path / folder.removesuffix("/target") / "mesh.ply"
        write_mesh(place, Mesh(vertices, torch.tensor(np.asarray(ball.faces)), torch.tensor(solid).expand_as(vertices)))
    chamfer = "{_target_: projects.benchmark.solids.surface_chamfer, _partial_: true, num_points: 500}"
    typed = [
        f"pred={tmp_path / 'pred'}", f"gt={tmp_path / 'gt'}", f"out={tmp_path / 'out'}", "protocol=toybox",
        "protocol.num_objects=2", "+protocol.truth.mesh={object}/mesh.ply",
        "+protocol.prediction.mesh={object}/mesh.ply",
        f"+protocol.shapes={{Chamfer: {chamfer}}}",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        evaluate.main(typed)
    assert ended.value.code == 2
    return tmp_path / "out" / "report.html"


def test_a_browser_shows_the_table_views_meshes_and_gaps_of_an_evaluation(evaluated, tmp_path):
    look(evaluated, tmp_path, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1200,2400")
    colors = {"views": MAGENTA, "true views": CYAN, "mesh": GREEN, "true mesh": YELLOW}
    seen = {what: share(tmp_path / "page.png", color) for what, color in colors.items()}
    assert all(part > 0.002 for part in seen.values()), seen
    shown = look(evaluated, tmp_path, "--dump-dom")
    assert "1 of 2" in shown and ">MISSING: no " in shown and "Not scored: pred, b: MISSING" in shown
    assert ">view 0</output>" in shown and shown.count("<canvas") == 2


def test_a_browser_runs_the_script_that_chooses_the_view_to_show(page, tmp_path):
    shown = look(page, tmp_path, "--dump-dom")
    assert ">view 0</output>" in shown and shown.count('style="visibility: visible;"') == 2
    assert "drag to turn" in shown and 'hidden=""' not in shown  # WebGL is there, so the canvas stays
