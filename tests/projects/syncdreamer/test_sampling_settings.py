"""timestep_spacing and precision decide the result of generate and of predict."""

import functools

import pytest

from core.diffusion.steps import SPACINGS
from tests.projects.syncdreamer import untrained


@pytest.fixture(scope="module", params=[pytest.param("generate", marks=pytest.mark.slow), "predict"])
def views(request, tmp_path_factory):
    """What a program makes with some settings; the same settings are computed once."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "predict":
        untrained.toybox(folder / "toybox", 1)

    @functools.cache
    def make(*settings):
        out = folder / "-".join(["out", *settings])
        if request.param == "generate":
            return untrained.generated(out, *settings)
        return untrained.predicted(folder / "toybox", out, *settings)

    with pytest.MonkeyPatch.context() as patch:
        untrained.use(patch)
        yield make


@pytest.mark.slow
def test_the_spacing_of_the_steps_reaches_the_sampler(views):
    leading, trailing = (views(f"timestep_spacing={spacing}", "precision=32") for spacing in SPACINGS)
    assert (leading - trailing).abs().mean() > 0.01


def test_half_precision_changes_the_views_a_little(views):
    single, half = (views("timestep_spacing=leading", f"precision={precision}") for precision in ("32", "bf16"))
    assert 0 < (single - half).abs().mean() < 0.01
