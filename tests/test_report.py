import base64
import json
import re

import pytest
import torch
import trimesh

from core.errors import BadMesh, BadOutput
from core.mesh.thin import thin
from core.report import Model, ReportItem, write_report
from core.types import Mesh


def ball(subdivisions: int = 2) -> Mesh:
    shape = trimesh.creation.icosphere(subdivisions)
    vertices = torch.tensor(shape.vertices).float()
    return Mesh(vertices, torch.tensor(shape.faces), (vertices + 1) / 2)


def item(**changes) -> ReportItem:
    views = torch.rand(4, 3, 8, 8)
    given = {"source": torch.rand(4, 8, 8), "models": {"": Model(ball())}}
    return ReportItem(**({"name": "<ball & co>", "views": {"mine": views, "truth": views}} | given | changes))


def page(tmp_path, *items: ReportItem, **options) -> str:
    write_report(tmp_path / "report.html", title="A <test>", items=items, **options)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_is_self_contained(tmp_path):
    (tmp_path / "turn.mp4").write_bytes(b"not really a video")
    text = page(tmp_path, item(models={"": Model(ball(), tmp_path / "turn.mp4")}))
    assert "http://" not in text and "https://" not in text and "{{" not in text
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert text.count("data:image/png") == 1 + 2 * 4 and base64.b64encode(b"not really a video").decode() in text


def test_names_and_values_cannot_break_out_of_the_page(tmp_path):
    evil = "</script><script>alert(1)</script>{{items}}"
    text = page(tmp_path, item(name=evil), summary=evil, metrics={evil: {evil: evil}}, provenance={evil: {"a": evil}})
    assert "<script>alert" not in text and "&lt;/script&gt;" in text and "A &lt;test&gt;" in text


def test_the_viewer_holds_the_mesh_itself(tmp_path):
    text = page(tmp_path, item())
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])
    faces = torch.frombuffer(bytearray(base64.b64decode(data["faces"])), dtype=torch.int32).view(-1, 3)
    assert torch.equal(faces.long(), ball().faces)
    steps = torch.frombuffer(bytearray(base64.b64decode(data["positions"])), dtype=torch.int16).view(-1, 3) & 0xFFFF
    low, high = torch.tensor(data["low"]), torch.tensor(data["high"])
    torch.testing.assert_close(low + (steps.int() & 0xFFFF) / 65535 * (high - low), ball().vertices, atol=1e-4, rtol=0)


def test_a_large_mesh_is_thinned_and_keeps_its_shape():
    small = thin(ball(4), 1000)
    assert 300 < len(small.faces) <= 1000 and small.faces.max() < len(small.vertices) == len(small.colors)
    torch.testing.assert_close(small.vertices.norm(dim=1), torch.ones(len(small.vertices)), atol=0.06, rtol=0)
    assert thin(ball(), 1000).faces.shape == ball().faces.shape


def test_an_empty_mesh_is_refused_and_leaves_no_page(tmp_path):
    with pytest.raises(BadMesh):
        page(tmp_path, item(models={"": Model(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)))}))
    assert not list(tmp_path.iterdir())


def test_the_best_of_each_column_is_marked(tmp_path):
    rows = {"ours": {"PSNR": 20.0, "FLIP": 0.1}, "mean view": {"PSNR": 10.0, "FLIP": 0.3}, "failed": {"PSNR": "none"}}
    text = page(tmp_path, item(), metrics=rows)
    assert re.findall(r'class="best">([^<]*)<', text) == ["20.00", "0.100"]
    assert "PSNR ↑" in text and "FLIP ↓" in text and ">none<" in text and ">–<" in text


def test_each_object_has_its_own_scores_and_the_rows_of_all_methods(tmp_path):
    scores = {"a": {"status": "SCORED", "PSNR": 20.0}, "b": {"status": "FAILED: no picture", "PSNR": None}}
    short = {"a": torch.rand(3, 3, 8, 8), "truth": torch.rand(4, 3, 8, 8)}
    text = page(tmp_path, item(views=short, scores=scores), item(scores=scores), metrics={"a": {"PSNR": 20.0}})
    assert text.count("FAILED: no picture") == 2 and text.index("Metrics</h2>") < text.index("<section>")
    assert "from the top: a, truth" in text and text.count('class="none"') == 1


def test_a_page_has_no_more_viewers_than_a_browser_can_draw(tmp_path):
    (tmp_path / "turn.mp4").write_bytes(b"film")
    many = [item(models={"a": Model(ball()), "b": Model(ball(), tmp_path / "turn.mp4")}) for _ in range(5)]
    text = page(tmp_path, *many)
    assert text.count("<canvas") == 8 and text.count("<video") == 5


def test_what_is_missing_is_left_out(tmp_path):
    text = page(tmp_path, item(views={"mine": torch.rand(4, 3, 8, 8)}, source=None, models={}))
    assert "truth" not in text.split("<main>")[1].split("</main>")[0] and "<canvas" not in text


def test_a_place_that_cannot_be_written_is_a_bad_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOutput):
        write_report(tmp_path / "file" / "report.html", title="x", items=[item()])
