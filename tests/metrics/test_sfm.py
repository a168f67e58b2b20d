"""COLMAP, really run: points for views that agree, a failure that is a result for views that do not."""

from importlib.util import find_spec

import pytest
import torch

from core.errors import BadConfig
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


def test_colmap_that_ends_or_hangs_is_a_result(monkeypatch, tmp_path):
    views = textured_sphere(size=16, num_views=2)
    monkeypatch.setattr(sfm, "find_spec", lambda name: object())
    monkeypatch.setattr(sfm, "__file__", str(tmp_path / "sfm.py"))
    (tmp_path / "colmap_job.py").write_text("import sys; print('bad luck', file=sys.stderr); sys.exit(134)")
    assert given(views) == Reconstruction(0, 0, None, "COLMAP ended with code 134: bad luck")
    (tmp_path / "colmap_job.py").write_text("import time; time.sleep(60)")
    assert "more than 0.5 seconds" in given(views, timeout_seconds=0.5).cause


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
