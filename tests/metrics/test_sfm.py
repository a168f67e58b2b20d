"""COLMAP, really run: points for views that agree, a failure that is a result for views that do not."""

from importlib.util import find_spec

import pytest
import torch

from core.errors import BadConfig, UserError
from core.metrics import sfm
from core.metrics.sfm import Reconstruction, colmap
from core.views import ViewSet
from tests.metrics.textured import textured_sphere


def given(views: ViewSet, **settings) -> Reconstruction:
    return colmap(views.rgb(), views.cameras, **settings)


def test_without_the_package_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(sfm, "find_spec", lambda name: None)
    with pytest.raises(BadConfig, match=r"pip install .*\[colmap\]"):
        given(textured_sphere(size=16, num_views=2))


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Puts another program in COLMAP's place."""
    monkeypatch.setattr(sfm, "check_pycolmap", lambda: None)
    monkeypatch.setattr(sfm, "__file__", str(tmp_path / "sfm.py"))
    return (tmp_path / "colmap_job.py").write_text


def test_colmap_that_aborts_is_a_result(job):
    job("import os, sys; print('check failed', file=sys.stderr); sys.stderr.flush(); os.abort()")
    found = given(textured_sphere(size=16, num_views=2))
    assert found.num_points == 0 and found.cause == "COLMAP ended itself: check failed"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("raise OSError('disk full')", r"code 1\): OSError: disk full"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"code -9\): without a word"),
        ("import time; time.sleep(60)", "more than 0.5 seconds"),
    ],
)
def test_colmap_that_the_machine_stopped_has_no_result(job, program, words):
    job(program)
    with pytest.raises(UserError, match=words):
        given(textured_sphere(size=16, num_views=2), timeout_seconds=0.5 if "sleep" in program else 60.0)


def test_a_broken_installation_is_refused_before_any_object(monkeypatch, tmp_path):
    (tmp_path / "pycolmap.py").write_text("raise ImportError('libcolmap.so is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sfm, "find_spec", lambda name: object())
    sfm._fault_of_pycolmap.cache_clear()
    with pytest.raises(BadConfig, match=r"cannot be loaded \(ImportError: libcolmap.so is broken\)"):
        sfm.check_pycolmap()
    sfm._fault_of_pycolmap.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize(("poses", "size", "num_views"), [("known", 192, 18), ("unknown", 256, 24)])
def test_colmap_finds_points_in_views_that_agree_and_says_why_not_in_others(poses, size, num_views):
    assert find_spec("pycolmap"), "the slow tests need the extra colmap: make test-slow installs it"
    views = textured_sphere(size=size, num_views=num_views)
    found = given(views, poses=poses)
    assert found.num_points > 200 and found.num_registered >= num_views - 4 and found.error_pixels < 1, found
    other = textured_sphere(size=size, num_views=num_views, seed=1).rgb()
    parity = torch.arange(num_views)[:, None, None, None] % 2
    disturbed = colmap(torch.where(parity == 0, views.rgb(), other), views.cameras, poses=poses)
    assert disturbed.num_points < found.num_points / 2
    if poses == "known":
        order = torch.randperm(num_views, generator=torch.Generator().manual_seed(0))
        shuffled = colmap(views.rgb()[order], views.cameras)
        assert shuffled.num_points and shuffled.error_pixels > 2 * found.error_pixels, shuffled
    blank = colmap(torch.ones_like(views.rgb()), views.cameras, poses=poses)
    assert blank == Reconstruction(0, 0, None, "no features were found in any view")
