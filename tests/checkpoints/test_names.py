"""Published names <-> our names, both ways, at full size on the meta device and by rule W at toy size."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core.checkpoints import clip, ldm
from core.checkpoints.rename import NameTable, inverse, likely_kind, load_strict, rename, without
from core.errors import BadCheckpoint
from tests.golden_fixture import load

SD1 = {"num_res_blocks": 2, "attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4], "model_channels": 320}
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
}  # fmt: skip
VIT_L = {"input_resolution": 224, "patch_size": 14, "width": 1024, "layers": 24, "heads": 16, "output_dim": 768}


def shapes(state):
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def assert_names_agree_both_ways(table, module, official):
    """Theirs becomes exactly ours, and ours becomes exactly theirs (less what is dropped)."""
    assert shapes(table.read(official)) == shapes(module.state_dict())
    assert shapes(table.write(module.state_dict())) == shapes(without(official, table.dropped))


@pytest.mark.parametrize(
    ("name", "clip_prefix"),
    [("syncdreamer-pretrain", "clip_image_encoder.model."), ("zero123-xl", "cond_stage_model.model.")],
)
def test_the_networks_of_zero123_and_syncdreamer_match_the_published_key_lists(name, clip_prefix):
    keys, _ = load("syncdreamer", name + ".keys")
    networks = ("model.diffusion_model.", "first_stage_model.", clip_prefix)
    added = {
        f"model.diffusion_model.{part}": "SyncDreamer's own" for part in ("middle_conditions", "output_conditions")
    }
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in keys.items() if key.startswith(networks)}
        ours = nn.ModuleDict({
            "unet": UNet2DConditionModel(
                **ldm.unet_arguments(in_channels=8, out_channels=4, num_heads=8, context_dim=768, **SD1)
            ),
            "vae": AutoencoderKL(**ldm.vae_arguments(VAE, embed_dim=4)),
            "clip": CLIPVisionModelWithProjection(CLIPVisionConfig(**clip.vision_arguments(**VIT_L))),
        })  # fmt: skip
    table = (
        ldm.unet(num_levels=4, layers_per_block=2, attention_levels=(0, 1, 2))
        + ldm.vae(num_levels=4, layers_per_block=2)
        + clip.vision(num_layers=24, theirs=clip_prefix)
        + NameTable([], dropped=added)
    )
    assert_names_agree_both_ways(table, ours, official)


def test_the_unet_and_vae_of_mvdream_match_the_published_key_list():
    keys = load("mvdream_sds", "sd-v2.1-base-4view.keys")[0]["keys"]
    networks = ("model.diffusion_model.", "first_stage_model.")
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in keys.items() if key.startswith(networks)}
        arguments = ldm.unet_arguments(
            in_channels=4, out_channels=4, num_head_channels=64, context_dim=1024, use_linear_in_transformer=True, **SD1
        )
        camera = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
        ours = nn.ModuleDict({
            "unet": UNet2DConditionModel(**arguments, **camera),
            "vae": AutoencoderKL(**ldm.vae_arguments(VAE, embed_dim=4)),
        })  # fmt: skip
    embedding = [
        (f"model.diffusion_model.camera_embed.{i}", f"unet.class_embedding.linear_{n}") for i, n in ((0, 1), (2, 2))
    ]
    table = (
        ldm.unet(num_levels=4, layers_per_block=2, attention_levels=(0, 1, 2))
        + ldm.vae(num_levels=4, layers_per_block=2)
        + NameTable(embedding)
    )
    assert_names_agree_both_ways(table, ours, official)


@pytest.mark.parametrize(("levels", "layers", "attention"), [(1, 1, ()), (2, 1, (1,)), (3, 2, (0, 2)), (4, 3, (3,))])
def test_unet_names_cover_any_placement_of_attention(levels, layers, attention):
    arguments = ldm.unet_arguments(
        in_channels=4, out_channels=4, model_channels=32, num_res_blocks=layers, channel_mult=[1] * levels,
        attention_resolutions=[2**level for level in attention], num_heads=2, context_dim=8,
    )  # fmt: skip
    with torch.device("meta"):
        unet = UNet2DConditionModel(**arguments)
    pairs = ldm.unet_pairs(
        num_levels=levels, layers_per_block=layers, attention_levels=attention, theirs="", ours=""
    )  # fmt: skip
    ours = unet.state_dict()
    theirs = rename(ours, inverse(pairs))
    assert shapes(rename(theirs, pairs)) == shapes(ours)
    upsamplers = [key for key in theirs if key.endswith(".conv.weight") and key.startswith("output_blocks")]
    expected = [
        f"output_blocks.{(levels - level) * (layers + 1) - 1}.{2 if level in attention else 1}.conv.weight"
        for level in reversed(range(1, levels))
    ]
    assert sorted(upsamplers) == sorted(expected)


def test_vae_names_cover_attention_inside_levels():
    config = VAE | {"ch": 32, "ch_mult": [1, 2], "resolution": 16, "attn_resolutions": [8]}
    table = ldm.vae(num_levels=2, layers_per_block=2, attention_levels=[1], theirs="first.", ours="")
    vae = AutoencoderKL(**ldm.vae_arguments(config, embed_dim=4))
    theirs = table.write(vae.state_dict())
    assert theirs["first.encoder.down.1.attn.0.q.weight"].shape == (64, 64, 1, 1)
    assert "first.decoder.up.1.attn.2.proj_out.bias" in theirs
    restored = table.read(theirs)
    assert all(torch.equal(restored[key], tensor) for key, tensor in vae.state_dict().items())


def test_splitting_and_transposing_clip_returns_the_same_numbers():
    config = {"input_resolution": 8, "patch_size": 4, "width": 6, "layers": 2, "heads": 2, "output_dim": 5}
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip.vision_arguments(**config)))
    table = clip.vision(num_layers=2, theirs="model.", ours="")
    theirs = table.write(model.state_dict())
    fused = theirs["model.visual.transformer.resblocks.1.attn.in_proj_weight"]
    query = model.vision_model.encoder.layers[1].self_attn.q_proj.weight
    assert fused.shape == (18, 6) and torch.equal(fused[:6], query)
    assert theirs["model.visual.proj"].shape == (6, 5)
    restored = table.read(theirs | {"model.text_projection": torch.zeros(2), "model.ln_final.weight": torch.zeros(2)})
    assert shapes(restored) == shapes(model.state_dict())
    assert all(torch.equal(restored[key], tensor) for key, tensor in model.state_dict().items())


def test_the_longest_matching_path_names_a_tensor():
    state = {"a.b.weight": torch.zeros(1), "a.c.weight": torch.ones(1)}
    assert set(rename(state, [("a", "x"), ("a.b", "y")])) == {"y.weight", "x.c.weight"}


def test_a_key_outside_the_table_is_refused_with_a_guess_of_its_origin():
    state = {"cc_projection.weight": torch.zeros(1), "a.weight": torch.zeros(1)}
    with pytest.raises(BadCheckpoint, match=r"1 of 2 .*cc_projection\.weight.*looks like a Zero-1-to-3"):
        rename(state, [("a", "x")])


def test_two_keys_for_one_tensor_are_refused():
    with pytest.raises(BadCheckpoint, match=r"both mean 'x\.weight'"):
        rename({"a.weight": torch.zeros(1), "b.weight": torch.zeros(1)}, [("a", "x"), ("b", "x")])


def test_a_wrong_state_is_reported_in_groups_and_nothing_of_it_is_loaded():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(2), "lora_up.weight": torch.ones(1)}
    with pytest.raises(BadCheckpoint) as caught:
        load_strict(module, state, what="toy")
    message = str(caught.value)
    assert "2 missing (1.weight, 1.bias)" in message and "1 unexpected (lora_up.weight)" in message
    assert "1 mismatched in shape (0.weight [3, 2] instead of [2, 2])" in message and "LoRA" in message
    assert "\n" not in message
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())


def test_a_report_shows_twenty_names_and_counts_the_rest():
    with pytest.raises(BadCheckpoint, match=r"24 missing .* and 4 more"):
        load_strict(nn.Sequential(*[nn.Linear(1, 1) for _ in range(12)]), {}, what="toy")


def test_integers_do_not_become_weights():
    with pytest.raises(BadCheckpoint, match=r"1 mismatched in type \(weight torch.int64 instead of torch.float32\)"):
        load_strict(nn.Linear(2, 2, bias=False), {"weight": torch.ones(2, 2, dtype=torch.int64)}, what="toy")


def test_half_precision_loads_exactly_into_float32():
    weight = torch.randn(2, 2).half()
    module = nn.Linear(2, 2, bias=False)
    load_strict(module, {"weight": weight}, what="toy")
    assert module.weight.dtype == torch.float32 and torch.equal(module.weight, weight.float())


def test_a_module_on_the_meta_device_takes_the_tensors_themselves():
    with torch.device("meta"):
        module = nn.Linear(2, 2, bias=False)
    weight = torch.randn(2, 2)
    load_strict(module, {"weight": weight, "old.weight": weight}, what="toy", dropped={"old": "of another model"})
    assert module.weight.data_ptr() == weight.data_ptr()


def test_the_kind_of_a_checkpoint_is_guessed_from_its_names():
    assert likely_kind({"spatial_volume.x": torch.zeros(1), "cc_projection.weight": torch.zeros(1)}).startswith(
        "a Sync"
    )
    assert likely_kind({"down_blocks.0.weight": torch.zeros(1), "time_embedding.linear_1.bias": torch.zeros(1)}) == (
        "a diffusers UNet"
    )
    assert likely_kind({"denoiser.unet.x": torch.zeros(1), "denoiser.camera_embed.x": torch.zeros(1)}) == (
        "an MVDream trained here"
    )
    assert "nothing known" in likely_kind({"weight": torch.zeros(1)})
    assert likely_kind({}) == "an empty file"
