"""The demo: what the toybox cannot have is refused before anything is made, and all that it promises is there."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import imageio
import pytest
import trimesh

from core.views import read_views
from launch import demo

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("argument", ["object=-1", "input_view=99", "input_view=16", "input_view=-1", "sample_num=0"])
def test_an_object_or_view_that_cannot_be_is_refused_before_any_program_starts(argument, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "run", lambda *arguments: pytest.fail(f"started {arguments}"))
    with pytest.raises(SystemExit) as stop:
        demo.main([argument, f"out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: {argument}: expected a whole number")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_whole_demo_leaves_what_it_promises_within_four_cpu_minutes(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "launch.demo", f"out={tmp_path / 'my demo'}"], cwd=ROOT, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 240
    out = tmp_path / "my demo"
    views = read_views(out / "views" / "000" / "0")
    assert len(views) == 16 and views.images.shape[-2:] == (64, 64)
    mesh = trimesh.load(out / "mesh.glb", force="mesh")
    assert len(mesh.faces) > 500 and (abs(mesh.bounds) < 1).all()
    assert len(imageio.v3.imread(out / "turntable.mp4")) >= 16
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") > 32 and "http://" not in page.replace("http://www.w3.org", "")
    metrics = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert set(metrics) == {"SyncDreamer (toybox), then NeuS", "trivial: the input repeated, a sphere"}
    made, trivial = metrics.values()
    assert made["PSNR (dB)"] > trivial["PSNR (dB)"] + 3 and made["SSIM"] > trivial["SSIM"] + 0.05
    assert made["FLIP"] < 0.8 * trivial["FLIP"] and made["Chamfer"] < 0.6 * trivial["Chamfer"]
