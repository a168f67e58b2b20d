"""What score distillation may be told: each documented value reaches what it is for, and the others are refused."""

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from safetensors.torch import save_file

from core.command_line import parse_flags, prepare
from core.config import CONF, check_targets, instantiate
from core.errors import BadConfig
from core.settings import precheck
from core.training.randomness import generator
from core.training.run import build
from projects.mvdream_sds import train
from projects.mvdream_sds.lora import load_lora
from projects.mvdream_sds.scene.run_settings import check, distillation
from tests.projects.mvdream_sds.scene.distilling import config, settings

DIRECTIONS = {"words": "after", "front": 30.0, "back": 30.0, "overhead": 60.0}


def typed(*overrides: str):
    """The settings of a command line, through all its checks."""
    program = train.main.program
    cfg, _ = precheck(program, parse_flags(prepare(["prompt=x", *overrides], program)))
    check_targets(cfg)
    return cfg


def test_documented_values_are_accepted_on_the_command_line():
    cfg = typed(
        "view_dependent=after", "losses.orient=[0,10,1000,5000]", "scene.geometry.normal_type=analytic",
        "guidance.min_step_percent=0.02", "guidance.max_step_percent=0.9", "cameras.width=32", "text_cache=null",
        "guidance.compile=true",
    )  # fmt: skip
    assert (cfg.guidance.max_step_percent, cfg.cameras.width, cfg.text_cache) == (0.9, 32, None)
    assert list(cfg.losses.orient) == [0, 10, 1000, 5000]
    assert distillation(cfg)["model"]["directions"] == DIRECTIONS
    cfg = typed("+experiment=mvdream_sds/paper_shading", "losses.orient=0", "view_dependent=off")
    assert cfg.losses.orient == 0 and distillation(cfg)["model"]["directions"] is None


def test_values_that_no_annotation_allows_are_refused():
    with pytest.raises(BadConfig, match=r"losses\.orient=much: expected a number"):
        typed("losses.orient=much")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"guidance__max_step_percent": 1.0},
            "guidance.max_step_percent=1.0: expected parts of all timesteps, below 1",
        ),
        ({"guidance__min_step_percent": 0.99}, "is above guidance.max_step_percent="),
        ({"guidance__max_step_percent": [0, 0.98, 0.5, 1e3]}, "give it as a whole number, such as 1000"),
        ({"losses__sds": [0, 1.0, 2.0, 5.5]}, "losses.sds=[0, 1.0, 2.0, 5.5]"),
        ({"view_dependent": True}, "choose one of off, after, before"),
    ],
)
def test_schedules_that_would_fail_at_a_late_step_are_refused_at_once(tmp_path, changes, said):
    with pytest.raises(BadConfig) as caught:
        check(settings(tmp_path, **changes))
    assert said in str(caught.value)


def test_an_off_that_yaml_took_for_false_is_off(tmp_path):
    given = settings(tmp_path, view_dependent=False)
    check(given)
    assert distillation(given)["model"]["directions"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses__orient": [0, 0.0, 1.0, 10]}, r"losses\.orient=.*set scene\.geometry\.normal_type=analytic"),
        ({"scene__geometry__feature_dim": 4}, r"scene\.geometry\.feature_dim=4"),
        ({"scene__geometry__blob_std": 0.0}, "blob_std=0"),
        ({"scene__geometry__encoding__num_levels": 0}, "num_levels=0"),
        ({"scene__renderer__occupancy__resolution": -1}, "resolution=-1"),
        ({"scene__renderer__occupancy__resolution": 0}, "resolution=0"),
        ({"scene__renderer__occupancy__every": 0}, "every=0"),
    ],
)
def test_scenes_that_cannot_be_optimised_are_refused(tmp_path, changes, said):
    with pytest.raises(BadConfig, match=said):
        build(config(tmp_path / "run", **changes))


def loss(tmp_path, **changes) -> dict[str, torch.Tensor]:
    module = build(config(tmp_path / "run", **changes))
    module.train()
    return module.loss({}, generator(0, 0))


def test_each_view_is_told_where_it_looks_from(tmp_path, monkeypatch):
    width = settings(tmp_path)["model"]["denoiser"]["unet"]["cross_attention_dim"]
    said = []

    def features(encoder, texts, cache):  # the toybox's encoder has no word for a view
        said.extend(texts)
        return torch.stack([torch.full((8, width), float(len(text))) for text in texts])

    monkeypatch.setattr("projects.mvdream_sds.scene.system.encode_cached", features)
    found = [loss(tmp_path, view_dependent=which) for which in ("off", "after")]
    assert torch.isfinite(found[1]["loss"]) and found[0]["loss"] != found[1]["loss"]
    assert said[-1].endswith(", overhead view")


def test_the_orientation_loss_finds_normals_where_the_material_needs_none(tmp_path):
    analytic = {"scene__geometry__normal_type": "analytic"}
    out = loss(tmp_path, **analytic, losses__orient=[0, 1.0, 0.0, 10])
    assert out["loss_orient"] > 0 and out["loss"] > out["loss_sds"]
    assert "loss_orient" not in loss(tmp_path, **analytic, losses__orient=[0, 0.0, 1.0, 10])


def test_a_scene_is_in_full_precision_whatever_the_run_has(tmp_path):
    module = build(config(tmp_path / "run"))
    module.train()

    def results(around: AbstractContextManager) -> list[torch.Tensor]:
        module.scene.renderer.occupancy.values.zero_()  # as before the first look
        with around:  # and not the backward pass: as the trainer does it
            taken, picture = module.loss({}, generator(0, 0))["loss"], module.preview({}, generator(0, 0))
        return [taken, *torch.autograd.grad(taken, module.scene.geometry.encoding.params), picture]

    plain, mixed = results(nullcontext()), results(torch.autocast("cpu", torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(plain, mixed, strict=True))


def test_adapters_are_merged_into_the_weights_that_teach(tmp_path):
    teacher = config(tmp_path)["model"]["teacher"]

    def saved(system, name: str) -> str:
        save_file(system.export(system.state_dict()), tmp_path / name, metadata=system.export_metadata())
        return str(tmp_path / name)

    torch.manual_seed(0)
    weights = saved(instantiate(teacher), "model.safetensors")
    adapted = instantiate({**teacher, "start": weights, "lora": {"rank": 2, "alpha": 4.0}})
    with torch.no_grad():
        for parameter in adapted.trained().values():
            parameter.normal_()
    adapters = saved(adapted, "lora.safetensors")
    plain, taught = (build(config(tmp_path / "run", weights=weights, lora=lora)).denoiser for lora in (None, adapters))
    assert not torch.equal(*(each.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight
                             for each in (plain, taught)))  # fmt: skip
    load_lora(plain, adapters)
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in taught.state_dict().items())


@pytest.mark.slow
def test_a_compiled_denoiser_answers_as_the_plain_one():
    # In a process of its own, since the checks of types that tests have cannot be traced. Torch's code generation takes
    # minutes on a CPU: here the traced graph itself runs.
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=CONF.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    plain, compiled, graphs = done.stdout.split()
    assert int(graphs) == 1 and float(compiled) == pytest.approx(float(plain), rel=1e-5)


COMPILED = """
import functools
from pathlib import Path
import torch
from core.training.randomness import generator
from core.training.run import build
from tests.projects.mvdream_sds.scene.distilling import config

graphs = []

def traced(graph, inputs):
    graphs.append(graph)
    return graph.forward

torch.compile = functools.partial(torch.compile, backend=traced)
for flag in (False, True):
    module = build(config(Path("unused"), guidance__compile=flag))
    module.train()
    print(module.loss({}, generator(0, 0))["loss"].item())
print(len(graphs))
"""


def test_a_denoiser_that_cannot_be_compiled_is_named_with_its_switch(tmp_path, monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    def broken(function, **options):
        def fail(*given):
            raise BackendCompilerFailed(fail, RuntimeError("no compiler"), None)

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(BadConfig, match=r"guidance\.compile=true: .*no compiler.*set it to false"):
        loss(tmp_path, guidance__compile=True)
