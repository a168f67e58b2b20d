"""Many texts -> assets: each made whole or listed as failed, and nothing made twice."""

import functools
import json
from typing import Any

import pytest
from omegaconf import OmegaConf

from core.batch import RESULTS
from core.errors import BadConfig, UserError
from core.views import read_views
from projects.mvdream_sds import assets as program
from projects.mvdream_sds.scene import assets
from tests.projects.mvdream_sds.scene.distilling import settings
from tests.projects.untrained import settings_of


@functools.cache
def base() -> dict[str, Any]:
    return settings_of(program.main.program, ["+experiment=mvdream_sds/toybox", "prompts=x"])


def config(out, **changes: Any) -> dict[str, Any]:
    short = settings(out)
    return base() | {key: short[key] for key in short if key not in ("name", "prompt")} | changes


@pytest.mark.slow
def test_a_batch_goes_on_past_a_text_that_cannot_be_and_makes_nothing_twice(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("a red cone\na bogus zebra\na blue cube\n")
    shown = {"render": {"num_views": 4, "size": 32}, "export": {"format": "glb", "isosurface": {"resolution": 24}}}
    out = tmp_path / "out"
    cfg = config(out, prompts=str(tmp_path / "texts.txt"), **shown)
    cfg["export"] |= {"texture_size": 64, "num_views": 2}
    with pytest.raises(UserError, match=r"1 of 3 inputs failed.*bogus"):
        assets.make_assets(OmegaConf.create(cfg))
    records = [json.loads(line) for line in (out / RESULTS).read_text().splitlines()]
    assert [record["status"] for record in records] == ["ok", "failed", "ok"]
    for name, text in (("a_red_cone", "a red cone"), ("a_blue_cube", "a blue cube")):
        views = read_views(out / name / "orbit/views")
        assert (len(views), views.caption) == (4, text) and (out / name / "mesh/mesh.glb").is_file()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.glb")}
    with pytest.raises(UserError, match="1 of 3"):
        assets.make_assets(OmegaConf.create(cfg))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.glb")} == before and len(before) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": None}, "give prompt=TEXT, or prompts="),
        ({"prompt": "a red cone"}, "give prompt=TEXT, or prompts="),
        ({"num_prompts": 0}, "num_prompts=0"),
        ({"prompt": "a red cone", "prompts": None, "num_prompts": 3}, "with prompt= there is one"),
        ({"stage": "lowres"}, "assets are made of whole runs"),
        ({"export": {"format": "stl"}}, "format=stl"),
        ({"render": {"num_views": 0}}, "num_views=0"),
    ],
)
def test_what_no_asset_can_be_made_with_is_refused_at_once(changes, said, tmp_path):
    cfg = config(tmp_path)
    with pytest.raises(BadConfig, match=said):
        program.check({**cfg, **changes})
