"""The generate program: texts, good and bad, and what they become."""

import json
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from core.cameras.poses import spherical
from core.errors import BadCheckpoint, BadConfig, BadRequest, MissingWeights, UserError
from core.views import read_views
from projects.mvdream_sds import generate, pipeline
from projects.mvdream_sds.forecast import estimate_memory
from projects.mvdream_sds.request import remarks
from projects.mvdream_sds.settings import Settings, check
from projects.mvdream_sds.switches import OFFICIAL, SCHEDULERS
from projects.mvdream_sds.texts import folder_name
from tests.projects.mvdream_sds.generating import SIZE, SMALL, base, config, run, weights

PROMPT = "a red cone"
UNKNOWN = "'zebra'"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return str(weights(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def made(tmp_path, monkeypatch, trained):
    """Runs on one text; returns its folder."""

    def make(**changes) -> Path:
        [record] = run(monkeypatch, **({"out": str(tmp_path / "out"), "weights": trained} | changes))
        return Path(record["folder"])

    return make


@pytest.mark.parametrize("num_views", [pytest.param(4, marks=pytest.mark.slow), 7])
def test_any_number_of_views_stands_evenly_around_the_object(num_views, made, capsys):
    folder = made(num_views=num_views, samples=2, azimuth=100.0, azimuth_span=180.0, elevation=20.0)
    assert folder.name == "a_red_cone"
    for number in range(2):
        views = read_views(folder / str(number))
        azimuth, elevation, _ = spherical(views.cameras.centers.double())
        expected = torch.tensor([10 + 180 * k / num_views for k in range(num_views)], dtype=torch.float64)
        assert_close(torch.rad2deg(azimuth) % 360, expected, rtol=0, atol=1e-4)
        assert_close(elevation, torch.full_like(elevation, math.radians(20)), rtol=0, atol=1e-5)
        assert views.caption == PROMPT and views.provenance["prompt"] == PROMPT
        for key in ("code", "config", "weights", "seed", "versions"):
            assert key in views.provenance
    assert Image.open(folder / "contact_sheet.png").size == (num_views * SIZE, 2 * SIZE)
    assert ("trained with 4 views" in " ".join(capsys.readouterr().err.split())) == (num_views != 4)
    assert not list(folder.rglob("turntable.*"))


@pytest.mark.slow
def test_many_views_of_a_whole_turn_are_a_turntable_too(made):
    assert (made(num_views=8) / "0" / "turntable.mp4").is_file()


def test_without_cameras_views_are_independent_images(made, capsys):
    folder = made(num_views=2, use_camera=False)
    assert [path.name for path in sorted((folder / "0").iterdir())] == ["000.png", "001.png"]
    assert "use_camera=false" in capsys.readouterr().err


@pytest.mark.slow
def test_the_text_the_seed_and_what_is_unwanted_change_the_views(made, tmp_path):
    plain = read_views(made() / "0").images
    for number, changes in enumerate([{"prompt": "a blue cube"}, {"seed": 7}, {"negative_prompt": "a blue cube"}]):
        other = read_views(made(**changes, out=str(tmp_path / str(number))) / "0").images
        assert not torch.equal(plain, other), changes


@pytest.mark.slow
def test_views_do_not_depend_on_how_many_are_computed_at_once(made, tmp_path):
    views = [
        torch.cat([read_views(folder / str(k)).images for k in range(2)])
        for folder in (made(samples=2, batch_view_num=n, out=str(tmp_path / str(n))) for n in (1, 32))
    ]
    assert (views[0][:, :3] - views[1][:, :3]).abs().max() <= 1 / 255 + 1e-6  # 8-bit files


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS.keys() - {OFFICIAL}))
def test_each_of_the_libraries_schedulers_makes_views(scheduler, made):
    assert len(read_views(made(scheduler=scheduler, sample_steps=3) / "0")) == 4


@pytest.mark.slow
def test_other_sizes_are_served_and_said(made, capsys):
    assert read_views(made(size=96) / "0").images.shape[-1] == 96
    assert "trained with images of 64 pixels" in " ".join(capsys.readouterr().err.split())


def test_what_guidance_would_read_is_said_where_there_is_none():
    settings = Settings.of(config(cfg_scale=1.0))
    assert any("negative_prompt is not read" in line for line in remarks(base()["model"], settings, "a cube"))
    assert not list(remarks(base()["model"], settings, ""))


def test_what_is_done_is_skipped_and_other_settings_are_refused(made, capsys):
    folder = made()
    written = (folder / "result.json").stat().st_mtime_ns
    made(batch_view_num=4)
    assert (folder / "result.json").stat().st_mtime_ns == written and "done before, skipped" in capsys.readouterr().err
    with pytest.raises(BadRequest, match="other settings"):
        made(cfg_scale=1.0)
    (folder / "contact_sheet.png").unlink()
    with pytest.raises(BadRequest, match="overwrite=true"):
        made()


@pytest.mark.slow
def test_overwriting_replaces_what_is_there(made):
    (made() / "contact_sheet.png").unlink()
    assert (made(overwrite=True) / "contact_sheet.png").is_file()


def test_a_file_of_texts_goes_on_past_a_bad_one_and_lists_it(tmp_path, monkeypatch, trained):
    lines = ["a red cone", "", "a zebra", "a red cone", "red " * 60, "a blue cube, with a green torus"]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="2 of 4 inputs failed"):
        run(monkeypatch, prompt=None, prompts=str(tmp_path / "texts.txt"), out=str(out), weights=trained)
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [record["status"] for record in records] == ["ok", "failed", "failed", "ok"]
    assert UNKNOWN in records[1]["error"] and "62 tokens" in records[2]["error"]
    assert not list(out.rglob(".tmp-*"))
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(
        [folder_name(lines[0]), folder_name(lines[5])]
    )


def test_texts_that_differ_have_folders_that_differ():
    texts = ["a red cone", "A red cone", "a red, cone", "a red_cone", "ein roter Kegel", "红色的圆锥", "!", "a " * 90]
    names = [folder_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert names[0] == "a_red_cone"
    assert all(name.isascii() and 0 < len(name) < 80 and name == Path(name).name for name in names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "  "}, "prompt is empty; give a text"),
        ({"prompts": "a.txt"}, "give one of them"),
        ({"prompt": "a red \udcff cone"}, r"prompt: character 7 of 'a red .udcff cone' is no UTF-8"),
        ({"negative_prompt": "\udcff"}, "negative_prompt: character 1 "),
        ({"suffix": ", 3d\udcff"}, "suffix: character 5 "),
        ({"prompt": None, "prompts": ""}, "prompts is empty"),
        ({"num_views": 0}, "num_views=0: expected a whole number of at least 1"),
        ({"samples": 0}, "samples=0"),
        ({"batch_view_num": 0}, "batch_view_num=0"),
        ({"elevation": 91.0}, "elevation=91.0: expected a number from -90 to 90"),
        ({"azimuth": math.nan}, "azimuth=nan"),
        ({"azimuth_span": 0.0}, "azimuth_span=0.0: expected a number above 0"),
        ({"size": 100}, "size=100: this model's images have sides in steps of 16 pixels"),
        ({"size": 4096}, "size=4096"),
        ({"mask": "alpha"}, "mask=alpha: choose one of auto, white"),
        ({"scheduler": "plms"}, "scheduler=plms: choose one of ddim, ddpm, euler"),
        ({"scheduler": "euler", "eta": 0.5}, "eta=0.5 is of scheduler=ddim"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"timestep_spacing": "even"}, "timestep_spacing=even"),
        ({"sample_steps": 0}, "sample_steps=0"),
        ({"sample_steps": 1000, "timestep_spacing": "leading"}, "lead beyond the last one"),
        ({"sample_steps": 1001}, "use 1 to 1000"),
        ({"sample_steps": 1000, "scheduler": "euler", "timestep_spacing": "leading"}, "expected .* to 500"),
        ({"cfg_scale": -1.0}, "cfg_scale=-1.0"),
        ({"precision": "8"}, "precision=8"),
        ({"device": "gpu"}, "device=gpu"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(changes, words):
    with pytest.raises(BadConfig, match=words):
        check(config(**changes))


def test_without_a_text_there_is_nothing_to_make():
    with pytest.raises(BadConfig, match=r"no text: give prompt=.*, or prompts=FILE"):
        generate.main.main(OmegaConf.create(config(prompt=None)))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"prompt": "a zebra"}, BadRequest, f"words that this model does not know: {UNKNOWN}.*use others"),
        ({"prompt": "x" * 10_000}, BadRequest, "does not know: 'xxx"),
        ({"prompt": "red cone " * 1111}, BadRequest, r"has 2224 tokens with its marks \(9998 characters\)"),
        ({"suffix": ", 3d asset"}, BadRequest, "'3d', 'asset'"),
        ({"negative_prompt": "ugly"}, BadRequest, "'ugly'"),
        ({"prompt": None, "prompts": "nowhere.txt"}, BadRequest, "prompts=nowhere.txt: cannot be read"),
        ({"weights": "nowhere.pt"}, MissingWeights, "no weights at 'nowhere.pt'; put the published"),
        ({"weights": "mvdream_toybox_that_is_not_there"}, MissingWeights, "use the bundled small weights"),
        ({"lora": "nowhere.safetensors"}, MissingWeights, "no adapters at 'nowhere.safetensors'"),
        ({"weights": "toybox_vae/x"}, MissingWeights, "toybox_vae/x"),
    ],
)
def test_what_cannot_be_made_is_refused_and_nothing_is_left(changes, kind, words, made, tmp_path):
    with pytest.raises(kind, match=words):
        made(**changes)
    assert not [path for path in (tmp_path / "out").glob("*") if path.name != "results.jsonl"]


def test_a_file_without_texts_is_refused(made, tmp_path):
    (tmp_path / "texts.txt").write_text("\n  \n")
    with pytest.raises(BadRequest, match="holds no text; write one in each line"):
        made(prompt=None, prompts=str(tmp_path / "texts.txt"))


def test_small_weights_hold_the_denoiser_alone_for_the_other_networks_are_bundled(trained):
    assert all(name.startswith("denoiser.") for name in load_file(trained))


@pytest.mark.slow
def test_weights_of_another_prediction_are_refused(made):
    model = base()["model"]
    with pytest.raises(BadCheckpoint, match="these weights predict the velocity"):
        made(model={**model, "denoiser": {**model["denoiser"], "prediction": "noise"}})


@pytest.mark.slow
def test_adapters_go_onto_the_weights(made, tmp_path, trained):
    from core.config import instantiate

    torch.manual_seed(1)
    system = instantiate({**base()["model"], "start": trained, "lora": {"rank": 2, "alpha": 2.0, "dropout": 0.0}})
    with torch.no_grad():
        for parameter in system.trained().values():
            parameter.normal_()
    save_file(system.export(system.state_dict()), tmp_path / "lora.safetensors", metadata=system.export_metadata())
    plain = read_views(made() / "0").images
    adapted = made(lora=str(tmp_path / "lora.safetensors"), out=str(tmp_path / "adapted")) / "0"
    assert not torch.equal(plain, read_views(adapted).images)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mvdream_sds", "mvdream_sds_toybox"])
def test_the_memory_is_told_before_anything_is_read(model, tmp_path, monkeypatch):
    from core.compose import composed
    from core.config import plain
    from core.settings import settings as read_settings

    program = generate.main.program
    cfg = plain(read_settings(program, composed(program, [f"model={model}", "prompt=x"])))
    if "tokenizer" in cfg["model"]["text_encoder"]:
        with pytest.raises(
            MissingWeights, match="no CLIP tokenizer at 'ckpt/clip_tokenizer'; put the tokenizer/ folder"
        ):
            estimate_memory(cfg["model"], Settings.of(cfg), torch.device("cpu"))
        (tmp_path / "merges.txt").write_text("version\nc o\n")
        cfg["model"]["text_encoder"]["tokenizer"]["path"] = str(tmp_path / "merges.txt")
        monkeypatch.setattr("core.models.clip_vocabulary._checked", lambda tokenizer, path: tokenizer)
    told = estimate_memory(cfg["model"], Settings.of(cfg), torch.device("cpu"))
    whole = {"mvdream_sds": 867_572_164 + 340_387_840 + 83_653_863, "mvdream_sds_toybox": 2_781_508}[model]
    assert 4 * whole <= told.weights < 4.4 * whole + 4e6
    assert told.activations > 1e6


@pytest.mark.slow
def test_the_memory_is_told_of_a_text_encoder_that_reads_as_much_as_it_can():
    model = base()["model"] | {"text_encoder": base()["model"]["text_encoder"] | {"length": None}}
    told = estimate_memory(model, Settings.of(config(model=model)), torch.device("cpu"))
    assert told.activations >= estimate_memory(base()["model"], Settings.of(base()), torch.device("cpu")).activations


@pytest.mark.slow
def test_the_program_runs_from_its_command_line(tmp_path, trained, capsys):
    arguments = [*SMALL, "prompt=a red cone, with a blue cube on top of it", f"weights={trained}", f"out={tmp_path}"]
    generate.main(arguments)
    assert (tmp_path / folder_name("a red cone, with a blue cube on top of it") / "result.json").is_file()
    for wrong, words in [("prompt=", "prompt is empty"), ("prompt=a zebra", UNKNOWN), ("num_view=4", "num_views")]:
        with pytest.raises(SystemExit) as stop:
            generate.main([*arguments[:-3], *arguments[-2:], wrong])
        assert stop.value.code == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and words in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset",
    [
        ["+experiment=mvdream_sds/t2i"],
        ["+experiment=mvdream_sds/t2i_sd15"],
        ["+experiment=mvdream_sds/gradio"],
        ["+experiment=[mvdream_sds/views_toybox,mvdream_sds/gradio]", "size=64", "suffix=''"],
    ],
)
def test_the_official_presets_are_good_settings(preset):
    from core.compose import composed
    from core.config import check_targets
    from core.settings import settings as read_settings

    program = generate.main.program
    cfg = read_settings(program, composed(program, [*preset, "prompt=x"]))
    check_targets(cfg)
    assert pipeline.Settings.of(cfg).seed == 23
