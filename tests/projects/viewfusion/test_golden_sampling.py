"""Interpolated denoising equals the official code, from single steps to whole circles and the pictures written.

The weights come through the reader of official files; the noises are the recorded ones.
"""

import json
import re

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from core.images import truncated
from projects.viewfusion.autoregression import Draws, ViewFusion
from projects.viewfusion.fusion import Blending, circle_plan, path_plan
from projects.viewfusion.reference import plain_step, plain_views
from projects.viewfusion.sampler import References, Rows, blended_noise, ddim_schedule, sample
from tests.golden_fixture import load, named
from tests.projects.viewfusion.golden.common import close, golden_system

NOISE = {"my_ddim": "per_condition", "my_ddim_pred_e": "shared"}  # the official samplers' names
NUMBER = r"=?\s*(\d*\.?\d+)"


def told(info, word, default=None):
    """The number that the fixture's `call` gives to a word; the default is the official scripts'."""
    match = re.search(rf"\b{word}{NUMBER}", info["call"])
    assert match or default is not None, f"the fixture does not tell {word}: {info['call']!r}"
    return float(match[1]) if match else default


def noise_of(info):
    return NOISE[re.findall(r"my_ddim\w*", info["call"])[-1]]


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """The averaged weights, which sample; equal configurations are read once."""
    known = {}

    def get(info):
        key = json.dumps([info["config"], info["config_common"]], sort_keys=True)
        if key not in known:
            known[key] = golden_system(info, tmp_path_factory.mktemp("weights"), ema=True).requires_grad_(False)
        return known[key]

    return get


@pytest.fixture(params=["interp_step_my_ddim", "interp_step_my_ddim_pred_e"])
def step(request, system):
    """A fixture of single steps: its tensors, the model, the references, the schedule and the settings."""
    info, data = load("viewfusion", request.param)
    model = system(info).denoiser
    references = References(data["c_crossattn"], data["c_concat"], data["weights"].flatten())
    options = {"eta": told(info, "eta"), "drop_last": False}
    schedule = ddim_schedule(model.schedule.alphas_cumprod, int(told(info, "S")), **options)
    return info, data, model, references, schedule


def test_the_samplers_tables(step):
    _, data, _, _, schedule = step
    assert schedule.timesteps.tolist() == data["ddim_timesteps"].tolist()
    for found, name in (
        (schedule.alphas, "ddim_alphas"),
        (schedule.alphas_prev, "ddim_alphas_prev"),
        (schedule.sigmas, "ddim_sigmas"),
        ((1 - schedule.alphas).sqrt(), "ddim_sqrt_one_minus_alphas"),
    ):
        assert_close(found, data[name], rtol=0, atol=1e-5, check_dtype=False)


def test_predictions_with_and_without_a_condition(step):
    _, data, model, references, schedule = step
    count = len(references)
    indices = named(data, "eps_cond_")
    assert indices
    for index in indices:
        x, t = data["x"].expand(count, -1, -1, -1), schedule.timesteps[index].expand(count)
        close(model.predict(x, t, references.context, references.latents), data[f"eps_cond_{index}"])
        nothing = (torch.zeros_like(references.context), torch.zeros_like(references.latents))
        close(model.predict(x, t, *nothing), data[f"eps_uncond_{index}"])


def test_the_plain_step_gives_each_references_update(step):
    info, data, model, references, schedule = step
    x = data["x"].expand(len(references), -1, -1, -1)
    for index, expected in named(data, "x_prev_views_").items():
        found, x_0 = plain_step(model, x, references, schedule, index, data["noise"], told(info, "scale"))
        close(found, expected)
        close(x_0, data[f"pred_x0_views_{index}"])


def test_the_fast_step_gives_their_blend(step):
    """Of the schedule, one step that stands alone: its x_T is the fixture's x."""
    info, data, model, references, schedule = step
    expected = {index: data[f"x_prev_{index}"] for index in named(data, "x_prev_views_")}
    assert expected
    for index, x_prev in expected.items():
        alone = schedule[index : index + 1]
        noises = iter([data["x"], data["noise"]])
        found = sample(
            model,
            references,
            lambda shape, noises=noises: next(noises),
            schedule=alone,
            guidance_scale=told(info, "scale"),
            noise=noise_of(info),
        )
        close(found, x_prev)
        rows = Rows.of(references, told(info, "scale"), 2)
        blended = blended_noise(model, data["x"], schedule.timesteps[index], rows)
        uncond, cond = data[f"eps_uncond_{index}"][:1], data[f"eps_cond_{index}"]
        mean = torch.einsum("v,vchw->chw", references.weights, cond)[None]
        close(blended, uncond + told(info, "scale") * (mean - uncond))


class Recorded(Draws):
    """The official draws, in their order; shapes must be as recorded."""

    def __init__(self, data, count):
        self.noises = iter(noise for i in range(count) for noise in (data[f"view{i}_xT"], *data[f"view{i}_noise"]))

    def normal(self, shape):
        noise = next(self.noises)
        assert tuple(noise.shape) == shape
        return noise


CIRCLES = ["autoreg_360_real", "autoreg_360"]


def official(info, data, name):
    """Plan, temperatures and sampler of a fixture."""
    blending = Blending(told(info, "inference_temp"), told(info, "auto_temp"))
    if name in CIRCLES:
        return circle_plan(torch.zeros(1, 3), int(told(info, "degree_steps")), blending)
    return path_plan(torch.zeros(3), data["angle_info"], blending)


@pytest.fixture(params=[*CIRCLES, "autoreg_single_target"])
def run(request, system):
    info, data = load("viewfusion", request.param)
    whole = system(info)
    fusion = ViewFusion(
        denoiser=whole.denoiser,
        latents=whole.latents,
        image_encoder=whole.image_encoder,
        num_steps=int(told(info, "ddim_steps")),
        guidance_scale=told(info, "scale", 3.0),
        eta=told(info, "eta", 1.0),
        noise=noise_of(info),
        rows_per_batch=3,
    )
    return info, data, fusion, official(info, data, request.param)


def test_the_order_the_references_and_the_weights(run):
    _, data, _, steps = run
    assert len(steps) == sum(name.endswith("_xT") for name in data)
    for i, planned in enumerate(steps):
        assert len(planned.references) == data[f"view{i}_ncond"]
        assert_close(planned.weights, data[f"view{i}_w"], rtol=0, atol=1e-5)
        assert_close(planned.poses, data[f"view{i}_T"], rtol=0, atol=2e-5)


def pixels_of(image):
    """[-1, 1] -> [0, 1] in the order of the official arithmetic."""
    return image / 2 + 0.5


def test_the_whole_run_and_its_pictures(run, monkeypatch):
    _, data, fusion, steps = run
    seen, decode = [], fusion.latents.decode
    monkeypatch.setattr(fusion.latents, "decode", lambda latents: seen.append(latents) or decode(latents))
    recorded = Recorded(data, len(steps))
    found = fusion.views(data["cond"], steps, recorded)
    assert next(recorded.noises, None) is None, "the official loop drew more noise"
    for i in range(len(steps)):
        close(seen[i], data[f"view{i}_latent"])
        close(found[i : i + 1], data[f"view{i}_image"])
    pictures = {name: values.numpy() for name, values in data.items() if name.startswith("png/")}
    assert pictures
    for name, expected in pictures.items():
        stem = name.rpartition("/")[2].removesuffix(".png")
        if stem == "condition" or stem.endswith("_condition") or stem == "0":
            image = data["cond"][0]
        elif stem.endswith("_target"):
            image = data["target"][0]
        elif stem.endswith("_generation"):
            image = found[-1]
        else:  # k.png stands k-th by azimuth
            turns = torch.stack([step.target[1] % (2 * torch.pi) for step in steps])
            image = found[turns.argsort()[int(stem) - 1]]
        written = (truncated(pixels_of(image)) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        difference = np.abs(written.astype(int) - expected.astype(int))
        # A float that differs in its last digits may be cut to the next byte.
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-2, name


@pytest.mark.slow
def test_the_plain_loop_makes_the_same_run(run):
    _, data, fusion, steps = run
    found = plain_views(
        fusion.denoiser, fusion.latents, fusion.image_encoder, data["cond"], steps, Recorded(data, len(steps)).normal,
        schedule=fusion.schedule, guidance_scale=fusion.guidance_scale, noise=fusion.noise,
    )  # fmt: skip
    for i in range(len(steps)):
        close(found[i : i + 1], data[f"view{i}_image"])
