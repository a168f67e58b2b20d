"""The official loop as it is written upstream: what the fast one (`sampler`, `autoregression`) is compared with.

Every reference has a copy of x and is updated by itself, with an unconditional evaluation of its own; the copies are
blended after each step; and every reference's image is encoded anew for every view. Slow on purpose: tests and
`benchmarks/viewfusion.py` use it, no program does.
"""

from collections.abc import Callable, Sequence

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn

from core.diffusion.guidance import classifier_free_guidance
from core.diffusion.samplers import DDIMSchedule, ddim_step
from projects.viewfusion.fusion import Step
from projects.viewfusion.model import Zero123
from projects.viewfusion.sampler import Noise, Normal, References


@torch.no_grad()
def plain_step(
    model: Zero123,
    x: Float[Tensor, "v c h w"],
    references: References,
    schedule: DDIMSchedule,
    index: int,
    noise: Float[Tensor, "n c h w"],
    guidance_scale: float,
) -> tuple[Float[Tensor, "v c h w"], Float[Tensor, "v c h w"]]:
    """Each reference's own guided update of its copy of x, and its predicted x_0."""
    t = schedule.timesteps[index].repeat(2 * len(x))
    context = torch.cat([torch.zeros_like(references.context), references.context])
    latents = torch.cat([torch.zeros_like(references.latents), references.latents])
    unconditional, conditional = model.predict(torch.cat([x, x]), t, context, latents).chunk(2)
    eps = classifier_free_guidance(conditional, unconditional, guidance_scale)
    return ddim_step(x, eps, schedule.alphas[index], schedule.alphas_prev[index], schedule.sigmas[index], noise)


@torch.no_grad()
def plain_sample(
    model: Zero123,
    references: References,
    normal: Normal,
    *,
    schedule: DDIMSchedule,
    guidance_scale: float = 3.0,
    noise: Noise = "shared",
) -> Float[Tensor, "1 c h w"]:
    """What `sampler.sample` computes, with the same draws."""
    shape = tuple(references.latents.shape[1:])
    count = len(references)
    x = normal((1, *shape))
    for index in reversed(range(len(schedule))):
        added = normal((count if noise == "per_condition" else 1, *shape))
        copies, _ = plain_step(model, x.expand(count, -1, -1, -1), references, schedule, index, added, guidance_scale)
        x = torch.einsum("v,vchw->chw", references.weights, copies)[None]
    return x


@torch.no_grad()
def plain_views(
    denoiser: Zero123,
    latents: nn.Module,
    image_encoder: nn.Module,
    inputs: Float[Tensor, "k 3 h w"],
    steps: Sequence[Step],
    normal: Normal,
    *,
    schedule: DDIMSchedule,
    guidance_scale: float = 3.0,
    noise: Noise = "shared",
    on_view: Callable[[], None] = lambda: None,
) -> Float[Tensor, "n 3 h w"]:
    """What `autoregression.ViewFusion.views` computes, with the same draws; pixels in [-1, 1]."""
    known = list(inputs)
    for step in steps:
        pixels = torch.stack([known[reference] for reference in step.references])
        scaled = latents.mode(latents.moments(pixels))
        references = References(
            denoiser.project(image_encoder(pixels), step.poses.to(pixels)),
            scaled / latents.scaling_factor,
            step.weights.to(pixels),
        )
        made = plain_sample(denoiser, references, normal, schedule=schedule, guidance_scale=guidance_scale, noise=noise)
        known.append(latents.decode(made)[0].clamp(-1, 1))
        on_view()
    return torch.stack(known[len(inputs) :]) if steps else inputs[:0]


def use_plain_cross_attention(unet: nn.Module) -> None:
    """Give every cross-attention its queries and keys back."""
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.set_processor(AttnProcessor2_0())
