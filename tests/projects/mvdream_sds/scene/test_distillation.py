"""Score distillation through the trainer: exact resume, stages, the same gradients with less memory, faults."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from core.errors import BadConfig, BadRequest
from core.training.randomness import generator
from core.training.run import build, run
from projects.mvdream_sds.scene.data import Nothing
from projects.mvdream_sds.scene.run_settings import check
from projects.mvdream_sds.scene.stages import starting_point
from projects.mvdream_sds.scene.system import ScoreDistillation
from tests.projects.mvdream_sds.scene.distilling import config, settings
from tests.training.conftest import in_child, one_thread  # noqa: F401  fixtures

LOSS = ScoreDistillation.loss


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run of both stages."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(config(folder))
    torch.set_num_threads(threads)
    return folder


def assert_same_run(folder: Path, whole: Path) -> None:
    """Rows, weights, what is occupied, and optimiser state agree to the last bit."""
    assert (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    ours, theirs = (
        json.loads((each / "checkpoints/step_00000006/MANIFEST.json").read_text())["files"] for each in (folder, whole)
    )
    for name in ("model.safetensors", "optimizer.safetensors", "optimizer.json"):
        assert ours[name] == theirs[name], name
    assert (folder / "weights/model.safetensors").read_bytes() == (whole / "weights/model.safetensors").read_bytes()


def test_a_run_killed_in_a_step_continues_bit_for_bit(tmp_path, whole, in_child, monkeypatch):  # noqa: F811
    def dying(module, batch, draws):
        if module.training and module.step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return LOSS(module, batch, draws)

    with monkeypatch.context() as patch:
        patch.setattr(ScoreDistillation, "loss", dying)
        assert in_child(lambda: run(config(tmp_path / "run"))) == -signal.SIGKILL
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000004\n"
    run(config(tmp_path / "run"))
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_the_stages_one_at_a_time_are_the_whole_run_bit_for_bit(tmp_path, whole):
    run(config(tmp_path / "run", stage="lowres"))
    assert (tmp_path / "run/checkpoints/last").read_text() == "step_00000003\n"
    given = settings(tmp_path / "run", stage="highres")
    assert starting_point(given) == "auto"
    run(config(tmp_path / "run", stage="highres"))
    # The end of the first stage is logged as an end: it has a row, and a save, which the whole run has too.
    assert_same_run(tmp_path / "run", whole)


def test_a_checkpoint_holds_the_scene_and_what_is_occupied_and_none_of_the_teacher(whole):
    from safetensors import safe_open

    with safe_open(whole / "checkpoints/step_00000006/model.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert file.get_tensor("scene.renderer.occupancy.occupied").any()
        assert file.get_tensor("scene.renderer.occupancy.values").max() > 0
    assert all(name.startswith("scene.") for name in names)
    assert (whole / "samples/00000003.png").is_file()


def test_the_log_has_the_janus_probe_the_schedules_and_the_cost(whole):
    header, *rows = (whole / "metrics.csv").read_text().splitlines()
    assert {"val/janus", "val/opacity", "lambda_orient", "samples_per_ray", "timestep"} <= set(header.split(","))
    assert len(rows) == 6
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert 0 <= float(last["val/janus"]) <= 1


@pytest.mark.slow
def test_recomputing_gives_the_same_gradients(tmp_path):
    gradients = []
    for recompute in (False, True):
        module = build(config(tmp_path / "run", recompute=recompute, scene__background__random_aug=False))
        module.train()
        assert module.latents.vae.encoder.gradient_checkpointing is recompute
        assert module.scene.renderer.recompute is recompute
        module.loss({}, generator(0, 0))["loss"].backward()
        gradients.append({name: p.grad for name, p in module.scene.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.abs().sum() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_rates_are_those_of_the_settings_and_the_teacher_learns_nothing(tmp_path):
    learnt = {"_target_": "projects.mvdream_sds.scene.background.NeuralEnvironmentMap"}
    module = build(config(tmp_path / "run", scene__background=learnt))
    groups = {group["name"]: group for group in module.configure_optimizers().param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == {
        "geometry.encoding": 0.02,
        "geometry.density_network": 0.01,
        "geometry.feature_network": 0.01,
        "background": 0.002,
    }
    assert groups["background"]["betas"] == (0.9, 0.99) and groups["background"]["eps"] == 1e-15
    assert not any(p.requires_grad for p in [*module.denoiser.parameters(), *module.latents.parameters()])
    module.train()
    assert module.scene.training and not module.denoiser.training


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_and_counted_and_too_many_end_the_run_with_a_dump(tmp_path, monkeypatch):
    def broken(module, batch, draws):
        terms = LOSS(module, batch, draws)
        return terms | {"loss": terms["loss"] * float("nan")} if module.training and module.step >= 3 else terms

    monkeypatch.setattr(ScoreDistillation, "loss", broken)
    with pytest.raises(BadRequest, match=r"not finite in 2 steps in a row.*state dumped"):
        run(config(tmp_path / "run", trainer__max_bad_steps=1))
    events = [json.loads(line) for line in (tmp_path / "run/bad_steps.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events] == [4, 5, 5, 6], "from the checkpoint of step 4 again, once"
    assert list((tmp_path / "run/dump").glob("step_*"))


def test_memory_that_does_not_suffice_is_answered_with_the_switch_to_use(tmp_path, monkeypatch):
    def exhausted(module, batch, draws):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ScoreDistillation, "loss", exhausted)
    with pytest.raises(BadRequest, match=r"2\.00 GiB.*set recompute=true"):
        run(config(tmp_path / "run"))


def test_a_high_resolution_stage_needs_the_low_resolution_ones_end(tmp_path, whole):
    with pytest.raises(BadRequest, match=r"stage=highres: no checkpoint in .*run stage=lowres"):
        starting_point(settings(tmp_path / "run", stage="highres"))
    with pytest.raises(BadRequest, match=r"is of step 6, the low-resolution stage ends at 10"):
        starting_point(settings(whole, stage="highres", cameras__resolution_milestones=[10]))
    # A run's folder stands for its newest checkpoint.
    found = starting_point(settings(tmp_path / "run", stage="highres", resume=str(whole)))
    assert found == str(whole / "checkpoints/step_00000006")


def test_a_finished_run_does_not_mind_how_it_would_be_computed(whole):
    before = (whole / "weights/model.safetensors").stat().st_mtime_ns
    run(config(whole, guidance__max_scenes=1, recompute=True, text_cache=str(whole / "texts")))
    assert (whole / "weights/model.safetensors").stat().st_mtime_ns == before


def test_settings_are_called_as_on_the_command_line():
    names = {
        "model.cameras.width": "cameras.width",
        "model.prompt": "prompt",
        "data.prompt": "prompt",
        "model.directions.front": "front_threshold",
        "model.directions.words": "view_dependent",
        "model.teacher.denoiser.attention": "model.denoiser.attention",
        "trainer.devices": "trainer.devices",
    }
    assert {key: ScoreDistillation.setting_name(None, key) for key in names} == names


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "a green sphere"}, r"\(prompt a red cube on a blue cylinder -> a green sphere\)"),
        (
            {"guidance__guidance_scale": 9.0, "losses__sparsity": 1.0},
            r"\(guidance\.guidance_scale .* -> 9\.0, losses\.",
        ),
        ({"cameras__elevation_range": [0.0, 10.0]}, r"\(cameras\.elevation_range .* -> \[0\.0, 10\.0\]\)"),
    ],
)
def test_a_run_does_not_go_on_with_another_prompt_cameras_or_objective(tmp_path, whole, changes, said):
    with pytest.raises(BadConfig, match=said):
        run(config(whole, **changes, trainer__max_steps=7))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"stage": "both"}, "stage=both: choose one of full, lowres, highres"),
        ({"view_dependent": "sideways"}, "view_dependent=sideways"),
        ({"front_threshold": 200}, "front_threshold=200"),
        ({"stage": "lowres", "cameras__resolution_milestones": []}, "has one resolution"),
        ({"trainer__max_steps": 0}, "trainer.max_steps=0"),
        ({"lora": "dog.safetensors", "weights": None}, "lora=dog.safetensors: adapters go onto a model's weights"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(tmp_path, changes, said):
    with pytest.raises(BadConfig) as caught:
        check(settings(tmp_path, **changes))
    assert said in str(caught.value)


def test_prompts_that_the_teacher_cannot_read_are_refused(tmp_path):
    for prompt, said in {"a zebra": "zebra", "cube " * 2000: "tokens"}.items():
        with pytest.raises(BadRequest, match=said):
            build(config(tmp_path / "run", prompt=prompt))


def test_no_data_is_one_empty_item():
    assert len(Nothing()) == 1 and Nothing().__getitem__(0, torch.Generator()) == {}
