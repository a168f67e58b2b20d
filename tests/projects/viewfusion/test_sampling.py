"""The fast sampler equals the official loop; each ablation does what its definition says."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from core.attention.multiview import SingleTokenAttnProcessor, remembered_contexts
from core.errors import BadConfig, BadRequest
from core.models.unet import walk_unet
from projects.viewfusion import sampler
from projects.viewfusion.fusion import circle_plan
from projects.viewfusion.reference import plain_sample, plain_views, use_plain_cross_attention
from projects.viewfusion.sampler import References, ddim_schedule, sample
from projects.viewfusion.switches import FUSIONS, NOISES
from tests.projects.viewfusion import small

POSES = torch.tensor([[1.0, 0.3, 1.6], [1.3, 2.0, 1.5]], dtype=torch.float64)


def exact(found, expected, tolerance=1e-5):
    assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def model():
    return small.fusion()


def references(count=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    weights = torch.rand(count, generator=random)
    return References(
        torch.randn(count, 1, small.CONTEXT, generator=random),
        torch.randn(count, 4, 8, 8, generator=random),
        weights / weights.sum(),
    )


def made(model, given, seed=0, **options):
    return sample(model.denoiser, given, small.draws(seed).normal, **({"schedule": model.schedule} | options))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("count", [1, 2])
def test_all_savings_together_make_the_official_views(noise, count, model):
    """Plain: 2 V evaluations with queries and keys, an update per reference, all images encoded anew for each view."""
    inputs, pixels = POSES[:count], small.pictures(len(POSES[:count]))
    steps = circle_plan(inputs, 4)
    fast = small.fusion(noise=noise)
    plain = small.parts()
    use_plain_cross_attention(plain["denoiser"].unet)
    expected = plain_views(
        **plain, inputs=pixels, steps=steps, normal=small.draws().normal, schedule=fast.schedule, noise=noise
    )
    found = fast.views(pixels, steps, small.draws())
    assert found.shape == (3, 3, small.SIZE, small.SIZE) and found.std() > 0.1
    exact(found, expected)


@pytest.mark.parametrize("noise", NOISES)
def test_one_blended_update_is_the_blend_of_the_references_updates(noise, model):
    given = references()
    found = made(model, given, noise=noise)
    exact(found, plain_sample(model.denoiser, given, small.draws().normal, schedule=model.schedule, noise=noise))


@pytest.mark.parametrize("rows_per_batch", [1, 2, 3, 5, 100])
def test_views_do_not_depend_on_how_many_conditions_are_computed_at_once(rows_per_batch, model):
    exact(made(model, references(4), rows_per_batch=rows_per_batch), made(model, references(4), rows_per_batch=4))


def evaluations(model, monkeypatch, given, **options):
    """Samples that passed through the UNet."""
    seen = []
    monkeypatch.setattr(
        sampler, "blended_noise", lambda m, x, t, rows: seen.append(sum(len(r.factors) for r in rows)) or x
    )
    made(model, given, **options)
    monkeypatch.undo()
    return seen


def test_a_step_evaluates_each_condition_and_the_unconditional_branch_once(model, monkeypatch):
    assert evaluations(model, monkeypatch, references(5)) == [6] * len(model.schedule)
    assert evaluations(model, monkeypatch, references(5), guidance_scale=1.0) == [5] * len(model.schedule)


def test_without_guidance_the_unconditional_branch_has_no_say(model):
    given = references()
    nearly = made(model, given, guidance_scale=1.0 + 1e-6)
    exact(made(model, given, guidance_scale=1.0), nearly, 1e-4)
    assert not torch.allclose(nearly, made(model, given, guidance_scale=3.0), atol=1e-2)


def test_every_image_is_encoded_once(model, monkeypatch):
    counted = {"moments": 0, "tokens": 0}
    fast = small.fusion()
    moments, forward = fast.latents.moments, fast.image_encoder.forward

    def count(name, function, pixels):
        counted[name] += len(pixels)
        return function(pixels)

    monkeypatch.setattr(fast.latents, "moments", lambda pixels: count("moments", moments, pixels))
    monkeypatch.setattr(fast.image_encoder, "forward", lambda pixels: count("tokens", forward, pixels))
    steps = circle_plan(POSES[:1], 6)
    fast.views(small.pictures(), steps, small.draws())
    assert sum(len(step.references) for step in steps) > 6
    assert counted == {"moments": 5, "tokens": 5}  # the last view is nobody's reference


def test_constants_of_cross_attention_are_computed_once_for_each_context_and_forgotten_afterwards(model):
    unet = model.denoiser.unet
    attention = next(m for name, m in unet.named_modules() if name.endswith("attn2"))
    processor, context = attention.processor, torch.randn(2, 1, small.CONTEXT)
    assert isinstance(processor, SingleTokenAttnProcessor)
    expected = processor.constant(attention, context)
    with remembered_contexts(unet):
        first = processor.constant(attention, context)
        assert processor.constant(attention, context) is first
        other = processor.constant(attention, context.clone() + 1)
        assert not torch.equal(other, first)
    assert torch.equal(first, expected) and processor.known is None


def test_one_timestep_for_all_is_embedded_once_with_the_same_result(model, monkeypatch):
    unet, given = model.denoiser.unet, references()
    x = torch.cat([given.latents, given.latents], dim=1)
    rows = []
    forward = unet.time_embedding.forward
    monkeypatch.setattr(unet.time_embedding, "forward", lambda t: rows.append(len(t)) or forward(t))
    one = walk_unet(unet, x, torch.tensor(7).expand(3), given.context)
    each = walk_unet(unet, x, torch.tensor([7, 7, 7]), given.context)
    assert rows == [1, 3]
    exact(one, each)


def with_noise(start, added):
    """Draws: x_T, then what is given."""
    noises = iter([start, *added])
    return lambda shape: next(noises)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_of_each_condition_is_blended_and_shared_noise_is_added_whole(noise, model):
    """Blended, V equal weights leave a V-th of the variance."""
    given, last = references(4), model.schedule[:1]
    random = torch.Generator().manual_seed(0)
    start, added = torch.randn(2, 1, 4, 8, 8, generator=random)
    each = torch.randn(4, 4, 8, 8, generator=random) if noise == "per_condition" else added
    silent, found = (
        sample(model.denoiser, given, with_noise(start, [n]), schedule=last, noise=noise) for n in (0 * each, each)
    )
    blended = torch.einsum("v,vchw->chw", given.weights, each)[None] if noise == "per_condition" else added
    exact(found - silent, last.sigmas[0] * blended)


def test_noise_is_added_at_the_last_step_too(model):
    calls = []
    made_noise = lambda shape: calls.append(shape) or torch.zeros(shape)  # noqa: E731
    sample(model.denoiser, references(2), made_noise, schedule=model.schedule, noise="per_condition")
    assert calls == [(1, 4, 8, 8)] + [(2, 4, 8, 8)] * len(model.schedule)


@pytest.mark.parametrize(("num_steps", "made_of_it"), [(75, 76), (50, 49), (25, 24), (4, 3), (2, 1)])
def test_the_official_rule_makes_other_numbers_of_steps_than_asked(num_steps, made_of_it, model):
    schedule = ddim_schedule(model.denoiser.schedule.alphas_cumprod, num_steps)
    assert len(schedule) == made_of_it and schedule.timesteps[0] == 1
    whole = ddim_schedule(model.denoiser.schedule.alphas_cumprod, num_steps, drop_last=False)
    assert len(whole) == made_of_it + 1 and torch.equal(whole.sigmas[:-1], schedule.sigmas)


@pytest.mark.parametrize("num_steps", [0, -1, 1, 300, 1000, 1001])
def test_step_counts_at_which_the_official_code_fails_are_refused(num_steps, model):
    with pytest.raises(BadRequest, match=f"{num_steps} sampling steps"):
        ddim_schedule(model.denoiser.schedule.alphas_cumprod, num_steps)


def single_images(model, given, seed=0):
    """Images of each reference by itself, with the same noise."""
    return [model.view(given.only(index), small.draws(seed)) for index in range(len(given))]


def test_interpolated_outputs_are_the_weighted_mean_of_each_references_image():
    model, given = small.fusion(fusion="interpolated_outputs"), references()
    expected = torch.einsum("v,vchw->chw", given.weights, torch.stack(single_images(model, given)))
    exact(model.view(given, small.draws()), expected)
    apart = small.fusion(fusion="interpolated_outputs", noise="per_condition")
    assert (apart.view(given, small.draws()) - expected).abs().max() > 1e-3


def test_interpolated_conditions_are_one_condition_the_weighted_mean(monkeypatch):
    model, given = small.fusion(fusion="interpolated_conditions"), references()
    mean = References(
        torch.einsum("v,vle->le", given.weights, given.context)[None],
        torch.einsum("v,vchw->chw", given.weights, given.latents)[None],
        torch.ones(1),
    )
    expected = small.fusion().view(mean, small.draws())
    found = model.view(given, small.draws())
    exact(found, expected)
    assert (found - small.fusion().view(given, small.draws())).abs().max() > 1e-3


def test_stochastic_conditioning_takes_one_reference_per_step_as_often_as_its_weight_says(monkeypatch):
    model, given = small.fusion(fusion="stochastic_conditioning", num_steps=50), references()
    tokens = []
    predict = model.denoiser.predict

    def seen(x, t, context, latents):
        tokens.append(context[1:, 0, 0].tolist())
        return torch.zeros_like(x)

    monkeypatch.setattr(model.denoiser, "predict", seen)
    for seed in range(20):
        model.view(given, small.draws(seed))
    monkeypatch.setattr(model.denoiser, "predict", predict)
    assert all(len(step) == 1 for step in tokens)
    counts = torch.tensor([sum(step[0] == token for step in tokens) for token in given.context[:, 0, 0].tolist()])
    assert counts.sum() == 20 * len(model.schedule)
    assert_close(counts / counts.sum(), given.weights, rtol=0, atol=0.05)


def test_stochastic_conditioning_on_a_sure_reference_is_denoising_with_it():
    given = replace(references(), weights=torch.tensor([0.0, 1.0, 0.0]))
    draws = small.draws()
    model = small.fusion(fusion="stochastic_conditioning")
    model.view(given, draws)  # may draw what it likes for its choices
    pick = lambda weights: 1  # noqa: E731
    exact(made(model, given, pick=pick), made(model, given.only(1)))
    assert all(draws.index(given.weights) == 1 for _ in range(20))


def test_with_one_reference_all_variants_are_the_same():
    images = [
        small.fusion(fusion=fusion).view(references(1), small.draws()) for fusion in FUSIONS if "stoch" not in fusion
    ]
    assert len(images) == len(FUSIONS) - 1
    for image in images[1:]:
        exact(image, images[0])


@pytest.mark.parametrize("fusion", ["zero123", "autoregression"])
def test_a_view_from_one_reference_takes_the_nearest(fusion):
    steps = circle_plan(POSES, 8)
    plan = small.fusion(fusion=fusion).plan(steps, POSES)
    known = torch.cat([POSES, torch.stack([step.target for step in steps])])
    for number, step in enumerate(plan):
        assert len(step.references) == 1 and step.weights.tolist() == [1.0]
        count = len(POSES) if fusion == "zero123" else len(POSES) + number
        turn = (step.target[1] - known[:count, 1]) % (2 * math.pi)
        angles = torch.minimum(turn, 2 * math.pi - turn) + (step.target[0] - known[:count, 0]).abs()
        assert angles[step.references[0]] == pytest.approx(angles.min().item(), abs=1e-9)
    if fusion == "autoregression":
        assert any(step.references[0] >= len(POSES) for step in plan)


@pytest.mark.parametrize(
    ("option", "words"), [({"fusion": "blending"}, "fusion=blending"), ({"rows_per_batch": 0}, "rows_per_batch=0")]
)
def test_a_word_that_is_no_switch_is_refused(option, words):
    with pytest.raises(BadConfig, match=words):
        small.fusion(**option)


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_half_precision_changes_the_views_a_little(fusion):
    """The networks compute in it; x and the weights stay as they are."""
    model, steps = small.fusion(fusion=fusion, num_steps=2), circle_plan(POSES[:1], 4)
    plan = model.plan(steps, POSES[:1])
    single = model.views(small.pictures(), plan, small.draws())
    with torch.autocast("cpu", torch.bfloat16):
        half = model.views(small.pictures(), plan, small.draws())
    assert 0 < (half.float() - single).abs().mean() < 0.02
