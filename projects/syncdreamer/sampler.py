"""SyncDreamer's sampler: DDIM over all views at once (Liu et al. 2023, section 4.1, eq. 7)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from core.diffusion.samplers import DDIMSchedule, ddim_step
from core.errors import BadRequest
from projects.syncdreamer.model import Condition, SyncDreamer


@torch.no_grad()
def sample(
    model: SyncDreamer,
    condition: Condition,
    draw: Callable[[tuple[int, ...]], Tensor],
    *,
    num_steps: int = 50,
    guidance_scale: float = 2.0,
    eta: float = 1.0,
    spacing: str = "leading",
    views_per_batch: int = 8,
    on_step: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Float[Tensor, "b v c h w"]:
    """Latents of all views, from noise.

    Args:
        spacing: where the steps lie (`core.diffusion.steps`).
        draw: gives standard normal noise of a shape; called for x_T, then once per step except the last.
        on_step: called after each step with its number from 0, x and the predicted x_0.
    """
    if guidance_scale < 0:
        raise BadRequest(f"cfg_scale={guidance_scale} is negative; use 1 for no guidance, 2 as the paper does")
    schedule = DDIMSchedule.uniform(model.schedule.alphas_cumprod, num_steps, eta=eta, spacing=spacing)
    x = draw((len(condition.latents), model.num_views, *condition.latents.shape[1:]))
    for number, i in enumerate(reversed(range(num_steps))):
        t = schedule.timesteps[i].expand(len(x))
        eps = model.denoise(x, t, condition, guidance_scale=guidance_scale, views_per_batch=views_per_batch)
        noise = draw(tuple(x.shape)) if i > 0 else None
        x, x_0 = ddim_step(x, eps, schedule.alphas[i], schedule.alphas_prev[i], schedule.sigmas[i], noise)
        if on_step is not None:
            on_step(number, x, x_0)
    return x
