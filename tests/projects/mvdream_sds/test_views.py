"""The denoiser, the sampler and published files beyond the fixtures."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from core.checkpoints.rename import NameTable
from core.compose import composed
from core.config import instantiate, plain
from core.diffusion.schedules import NoiseSchedule
from core.errors import BadCheckpoint
from core.models.text import TextEncoder
from core.settings import settings
from projects.mvdream_sds import checkpoint, generate
from projects.mvdream_sds.cameras import condition, view_poses
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.sampler import Condition, guided_noise, make_steps, sample, uniform_steps
from projects.mvdream_sds.switches import SCHEDULERS
from tests.golden_fixture import load
from tests.projects.mvdream_sds.golden_networks import Networks, build, official_state, word_tokenizer

VIEWS = 3


def denoiser(**options):
    torch.manual_seed(0)
    made = build().denoiser.eval()
    for name, value in options.items():
        setattr(made, name, value)
    return made


def given(b=2, v=VIEWS):
    draw = torch.Generator().manual_seed(1)
    x, context = torch.randn(b, v, 4, 8, 8, generator=draw), torch.randn(b, 1, 5, 8, generator=draw)
    return x, torch.tensor([500, 20])[:b], context, condition(view_poses(v)).expand(b, -1, -1)


@pytest.mark.parametrize("joint", [True, False])
def test_a_view_knows_of_the_others_only_by_joint_attention(joint):
    x, t, context, camera = given()
    changed = x.clone()
    changed[:, 2] += 1
    model = denoiser(joint=joint)
    with torch.no_grad():
        before, after = (model.predict(some, t, context, camera) for some in (x, changed))
    for view in range(VIEWS):
        assert torch.allclose(before[:, view], after[:, view], atol=1e-6) == (not joint and view != 2)


def test_objects_of_a_batch_know_nothing_of_each_other_and_views_have_no_order():
    x, t, context, camera = given()
    model, order = denoiser(), [2, 0, 1]
    with torch.no_grad():
        both = model.predict(x, t, context, camera)
        assert_close(model.predict(x[:1], t[:1], context[:1], camera[:1]), both[:1], rtol=0, atol=1e-5)
        turned = model.predict(x[:, order], t, context.expand(-1, VIEWS, -1, -1), camera[:, order])
    assert_close(turned, both[:, order], rtol=0, atol=1e-5)


def test_no_camera_adds_nothing_which_is_not_the_embedding_of_zeros():
    x, t, context, camera = given()
    model = denoiser()
    with torch.no_grad():
        none = model.predict(x[:, :1], t, context, None)
        zeros = model.predict(x[:, :1], t, context, torch.zeros_like(camera[:, :1]))
        assert_close(none[:, 0], model.unet(x[:, 0], t, context[:, 0]).sample, rtol=0, atol=1e-5)
    assert not torch.allclose(none, zeros, atol=1e-3)
    with pytest.raises(ValueError, match="expected a context of 1 or 3 views"):
        model.predict(x, t, context.expand(-1, 2, -1, -1), camera)


def test_recomputed_gradients_are_the_same_though_passes_of_other_counts_come_between():
    x, t, context, camera = given()
    gradients = []
    for recompute in (False, True):
        model = denoiser(recompute=recompute).train()
        views = model.predict(x, t, context, camera).square().mean()
        single = model.predict(x[:, :1], t, context, None).square().mean()
        (views + single).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain_gradient, recomputed in zip(*gradients, strict=True):
        assert_close(plain_gradient, recomputed, rtol=0, atol=1e-6)


def test_whatever_the_network_predicts_the_denoiser_answers_with_the_noise():
    x, t, context, camera = given()
    model = denoiser()
    with torch.no_grad():
        velocity = model.predict(x, t, context, camera)
        model.prediction = "velocity"
        noise = model.predict(x, t, context, camera)
    a = model.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
    assert_close(noise, a.sqrt() * velocity + (1 - a).sqrt() * x)


class Oracle(MultiViewDenoiser):
    """Knows x_0, and counts what it is asked."""

    def __init__(self, x_0):
        torch.nn.Module.__init__(self)
        self.x_0, self.schedule, self.rows = x_0, NoiseSchedule(), []

    def predict(self, x, t, context, camera):
        self.rows.append(len(x))
        a = self.schedule.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        return (x - a.sqrt() * self.x_0) / (1 - a).sqrt()


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_every_scheduler_comes_to_what_a_perfect_denoiser_sees(scheduler, spacing):
    draw = torch.Generator().manual_seed(0)
    oracle, context = Oracle(torch.randn(1, 2, 1, 2, 2, generator=draw)), torch.zeros(1, 1, 2, 3)
    eta = 1.0 if scheduler == "ddim" else 0.0
    steps = make_steps(oracle.schedule, 20, draw, scheduler=scheduler, eta=eta, spacing=spacing)
    noise = torch.randn(1, 2, 1, 2, 2, generator=draw)
    made = sample(oracle, context, context, None, noise, steps=steps, guidance_scale=3.0)
    left = (1 - oracle.schedule.alphas_cumprod[0]).sqrt().item()  # the official DDIM ends at abar_0, not at 1
    assert (made - oracle.x_0).abs().max() < 4 * left
    assert set(oracle.rows) == {2} and len(oracle.rows) >= 20


def test_guidance_of_one_evaluates_once_and_a_bound_on_memory_changes_nothing():
    x, t, context, camera = given()
    model = denoiser()
    condition_ = Condition(context, context.flip(-1), camera)
    with torch.no_grad():
        whole = guided_noise(model, x, t[0], condition_, 5.0)
        pieces = guided_noise(model, x, t[0], condition_, 5.0, max_objects=1)
    assert_close(whole, pieces, rtol=0, atol=1e-5)
    oracle = Oracle(x[:1])
    guided_noise(oracle, x[:1], t[0], Condition(context[:1], context[:1], None), 1.0)
    assert oracle.rows == [1]


def test_noise_is_added_only_where_eta_asks_for_it():
    asked = []

    def normal(shape):
        asked.append(shape)
        return torch.zeros(shape)

    x, _, context, _ = given(1, 1)
    oracle = Oracle(x)
    for eta, count in ((0.0, 0), (0.5, 4)):
        sample(oracle, context, context, None, x, steps=uniform_steps(oracle.schedule, 4, eta=eta, normal=normal))
        assert len(asked) == count


def full_size(model: str) -> Networks:
    """The published architecture, without data; its tokenizer holds no weights."""
    program = generate.main.program
    cfg = plain(settings(program, composed(program, [f"model={model}", "prompt=x"])))["model"]
    with torch.device("meta"):
        text_encoder = TextEncoder(clip=instantiate(cfg["text_encoder"]["clip"]), tokenizer=word_tokenizer())
        return Networks(instantiate(cfg["denoiser"]), instantiate(cfg["latents"]), text_encoder)


def is_dropped(key: str, table: NameTable) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in table.dropped)


@pytest.mark.parametrize(
    ("file", "model"),
    [("sd-v2.1-base-4view", "mvdream_sds"), pytest.param("sd-v1.5-4view", "mvdream_sds_sd15", marks=pytest.mark.slow)],
)
def test_a_published_file_has_exactly_our_tensors(file, model):
    """Both ways: each official tensor has its place in our networks, and each of ours its official one."""
    networks, (listed, _) = full_size(model), load("mvdream_sds", f"{file}.keys")
    official = {key: torch.empty(shape, device="meta") for key, shape in listed["keys"].items()}
    table = checkpoint.official_table(networks, checkpoint.tower_of(official))
    state = {name: t for name, t in networks.state_dict().items() if name != checkpoint.ALPHAS}
    ours = {name: tuple(t.shape) for name, t in state.items()}
    written = {name: tuple(t.shape) for name, t in table.write(state).items()}
    left_out = {key for key in official if is_dropped(key, table)}
    assert written == {key: tuple(t.shape) for key, t in official.items() if key not in left_out}
    assert {name: tuple(t.shape) for name, t in table.read(official).items()} == ours
    assert len(official) == listed["meta"]["n_keys"] and all(table.dropped.values())
    text = {"positional_embedding", "text_projection", "logit_scale", "position_ids"}
    assert all("resblocks.23." in key or key.rpartition(".")[2] in text or "." not in key for key in left_out)
    for part, count in {"unet": networks.denoiser, "vae": networks.latents}.items():
        assert sum(p.numel() for p in count.parameters()) == listed["meta"]["n_params"][part]


@pytest.mark.slow
def test_a_stable_diffusion_starts_a_training_and_keeps_the_cameras_new(tmp_path):
    networks = build()
    before = {name: value.clone() for name, value in networks.state_dict().items()}
    state = {key: value for key, value in official_state(networks).items() if ".camera_embed." not in key}
    torch.save({"state_dict": {**state, "model_ema.decay": torch.tensor(0.9)}}, tmp_path / "sd.ckpt")
    checkpoint.load_start(networks, tmp_path / "sd.ckpt")
    for name, value in networks.state_dict().items():
        if name.endswith("weight"):
            assert torch.equal(value, before[name]) == name.startswith(checkpoint.CAMERA), name
    with pytest.raises(BadCheckpoint, match=r"4 missing \(denoiser.camera_embed.*"):
        checkpoint.load_official(networks, drop_average(state, tmp_path))


def drop_average(state, folder: Path) -> Path:
    torch.save(state, folder / "plain.pt")
    return folder / "plain.pt"


@pytest.mark.slow
def test_weights_of_another_size_are_refused(tmp_path):
    other = build(text={"context_length": 8, "vocab_size": 8, "width": 16, "heads": 2, "layers": 2})
    torch.save(official_state(other), tmp_path / "other.pt")
    with pytest.raises(BadCheckpoint, match=r"mismatched in shape \(text_encoder"):
        checkpoint.load_official(build(), tmp_path / "other.pt")
