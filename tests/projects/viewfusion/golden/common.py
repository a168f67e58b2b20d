"""What the parity tests share: a Zero-1-to-3 of the fixture's size, read from an official file with rule-W weights."""

import math

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.testing import assert_close
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core.checkpoints import clip, ldm
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from projects.viewfusion.checkpoint import ALPHAS, official_table
from projects.viewfusion.model import Zero123
from projects.viewfusion.system import Zero123System
from projects.viewfusion.weights import load_weights
from tests.golden_fixture import rule_w

UNET = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "attention_resolutions", "channel_mult",
        "context_dim", "num_heads", "num_head_channels", "transformer_depth")  # fmt: skip
CLIP = {
    "input_resolution": "image_resolution",
    "patch_size": "vision_patch_size",
    "width": "vision_width",
    "layers": "vision_layers",
    "output_dim": "embed_dim",
}
CLIP_HEAD_DIM = 64  # OpenAI's class has width / 64 heads


def close(actual, expected, tolerance=1e-4):
    """Networks agree relative to the output's maximum (`golden/README.md`)."""
    assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def build_system(info) -> Zero123System:
    """The system of a fixture's configuration, with initial weights."""
    config, common = info["config"], info["config_common"]
    unet = UNet2DConditionModel(
        **ldm.unet_arguments(**{name: config["unet"][name] for name in UNET if name in config["unet"]})
    )
    vae = AutoencoderKL(**ldm.vae_arguments(config["vae"], common["embed_dim"]))
    vision = {ours: config["clip"][theirs] for ours, theirs in CLIP.items()}
    arguments = clip.vision_arguments(**vision, heads=max(1, vision["width"] // CLIP_HEAD_DIM))
    denoiser = Zero123(unet=unet, image_size=config["vae"]["resolution"], beta_end=common["linear_end"])
    schedule = denoiser.schedule
    assert schedule.num_timesteps == common["timesteps"]
    assert math.isclose(schedule.betas[0].item(), common["linear_start"], rel_tol=1e-5)
    return Zero123System(
        denoiser=denoiser,
        latents=Latents(vae, scaling_factor=common["scale_factor"]),
        image_encoder=ImageEncoder(CLIPVisionModelWithProjection(CLIPVisionConfig(**arguments))),
    )


def official_state(info, system: Zero123System) -> dict[str, torch.Tensor]:
    """What the official file would hold: rule W under official names, the UNet twice, plain and averaged."""
    ours = {name: value for name, value in system.state_dict().items() if name != ALPHAS}
    named = official_table(system).write(ours)
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value
        for name, value in named.items()
        if name.startswith("model.diffusion_model.")
    }
    counts = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(0, dtype=torch.int32)}
    return rule_w({**named, **averages, **counts}, exceptions=set(info["exceptions"]))


def golden_system(info, folder, *, ema: bool) -> Zero123System:
    """The system with a fixture's weights, through a file as upstream writes it and our reader of such files."""
    system = build_system(info)
    file = folder / "zero123.ckpt"
    if not file.exists():
        torch.save({"epoch": 3, "global_step": 7, "state_dict": official_state(info, system)}, file)
    load_weights(system, file, ema=ema)
    return system.eval()
