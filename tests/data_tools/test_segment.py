"""Cutting out: photos become RGBA, the way is said each time, and nothing is downloaded or taken for a cut-out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from core.errors import BadConfig, UserError
from core.images import read_image
from core.masks import network_lacks
from data_tools.pictures.batch import read_note
from data_tools.segment import check, main


@pytest.fixture(autouse=True)
def no_networks(monkeypatch, tmp_path):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "no weights"))


def photo(path: Path, *, even: bool = True, alpha: bool = False) -> Path:
    """A red box, rows 20 to 43 and columns 16 to 47 of 64, on gray or on a colourful slope."""
    row, column = np.mgrid[:64, :64].astype(np.uint8) * 4
    values = np.full((64, 64, 3), 128, np.uint8) if even else np.stack([column, row, 255 - column], axis=-1)
    values[20:44, 16:48] = (200, 20, 20)
    if alpha:
        values = np.concatenate([values, np.full((64, 64, 1), 255, np.uint8)], axis=-1)
        values[:8, :, 3] = 0
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path, quality=98, subsampling=0)  # as for a .jpg
    return path


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def segment(source: Path, out: Path, **settings) -> None:
    """The program without Hydra, which takes most of a second."""
    cfg = {"input": str(source), "out": str(out), "mask": "auto", "overwrite": False, "seed": 0, **settings}
    check(cfg)
    main.main(OmegaConf.create(cfg))


def test_a_photo_becomes_rgba_with_its_colours_and_the_object_alone(tmp_path, capsys):
    path = photo(tmp_path / "in/a photo.jpg")
    segment(path, tmp_path / "out")
    cut, given = read_image(tmp_path / "out/a photo.png"), read_image(path)
    inside = torch.zeros(64, 64)
    inside[20:44, 16:48] = 1
    assert (cut[3] - inside).abs().mean() < 0.02
    assert torch.equal(cut[:3], given[:3])
    assert "mask=auto: flood" in capsys.readouterr().err and "flood" in results(tmp_path / "out")[0]["mask"]


def test_grabcut_says_that_it_is_a_rough_guess_in_the_output_and_in_the_record(tmp_path, capsys):
    segment(photo(tmp_path / "in/uneven.png", even=False), tmp_path / "out")
    printed = capsys.readouterr()
    assert "GrabCut, a rough guess" in printed.err and "1 of them by GrabCut" in printed.out
    [record] = results(tmp_path / "out")
    assert record["rough"] and "GrabCut" in record["mask"]
    assert (read_image(tmp_path / "out/uneven.png")[3, 20:44, 16:48] > 0.5).float().mean() > 0.9


def test_a_files_own_alpha_is_kept_by_auto_and_replaced_by_a_way_that_is_named(tmp_path):
    path = photo(tmp_path / "in/own.png", alpha=True)
    segment(path, tmp_path / "auto")
    assert torch.equal(read_image(tmp_path / "auto/own.png")[3], read_image(path)[3])
    assert "own alpha" in results(tmp_path / "auto")[0]["mask"]
    segment(path, tmp_path / "named", mask="grabcut")
    assert not torch.equal(read_image(tmp_path / "named/own.png")[3], read_image(path)[3])


@pytest.mark.parametrize(("word", "file"), [("rembg", "u2net.onnx"), ("birefnet", "birefnet-general.onnx")])
def test_a_network_without_weights_is_refused_with_the_place_where_they_belong(tmp_path, word, file):
    with pytest.raises(BadConfig, match=rf"mask={word} needs its weights at .*no weights/{file}"):
        segment(photo(tmp_path / "in/a.png"), tmp_path / "out", mask=word)
    assert not list((tmp_path / "out").glob("*.png"))


def test_weights_count_in_both_places_where_rembg_looks(monkeypatch, tmp_path):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    assert "its weights at" in network_lacks("birefnet")
    (tmp_path / "models/birefnet-general").mkdir(parents=True)
    (tmp_path / "models/birefnet-general/birefnet-general.onnx").touch()
    monkeypatch.setattr("core.masks.find_spec", lambda package: None)
    assert network_lacks("birefnet").startswith("the package rembg and onnxruntime")
    assert "u2net.onnx" in network_lacks("rembg")


def test_a_bad_photo_is_listed_and_the_rest_goes_on_also_in_folders_with_odd_names(tmp_path, capsys):
    folder = tmp_path / "méine Fotos"
    photo(folder / "gut.png")
    (folder / "leer.png").touch()
    (folder / "text.jpg").write_text("no picture")
    Image.fromarray(np.full((32, 32, 3), 255, np.uint8)).save(folder / "white.png")
    with pytest.raises(SystemExit) as ended:
        main([f"input={folder}", f"out={tmp_path}/out", "mask=white"])
    assert ended.value.code == 2 and "3 of 4 inputs failed" in capsys.readouterr().err
    assert {record["status"] for record in results(tmp_path / "out")} == {"ok", "failed"}
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["gut.png"]


@pytest.mark.parametrize("mask", ["auto", "grabcut"])
def test_a_picture_that_shows_nothing_is_no_success(tmp_path, mask):
    photo(tmp_path / "in/good.png", alpha=True)
    Image.new("RGBA", (32, 32), (200, 20, 20, 0)).save(tmp_path / "in/nothing.png")
    with pytest.raises(UserError, match=r"1 of 2 inputs failed .*: no foreground pixels: alpha is 0 everywhere"):
        segment(tmp_path / "in", tmp_path / "out", mask=mask)
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["good.png"]


def test_a_second_run_does_nothing_another_setting_is_refused_and_a_foreign_picture_never_replaced(tmp_path, capsys):
    path = photo(tmp_path / "in/a.png")
    segment(path, tmp_path / "out")
    before = (tmp_path / "out/a.png").stat().st_mtime_ns
    segment(path, tmp_path / "out")
    assert "0 photos cut out, 1 were there before" in capsys.readouterr().out
    with pytest.raises(UserError, match="overwrite=true"):
        segment(path, tmp_path / "out", mask="grabcut")
    assert (tmp_path / "out/a.png").stat().st_mtime_ns == before
    segment(path, tmp_path / "out", mask="grabcut", overwrite=True)
    assert read_note(tmp_path / "out/a.png")["mask"] == "mask=grabcut"
    content = path.read_bytes()
    with pytest.raises(UserError, match="did not make"):
        segment(path, tmp_path / "in", overwrite=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("mask", ["none", "alpha", "grabcutt"])
def test_what_cuts_nothing_out_is_refused(tmp_path, mask):
    with pytest.raises(BadConfig, match=f"mask={mask}: choose one of auto, birefnet, rembg"):
        segment(tmp_path, tmp_path / "out", mask=mask)
