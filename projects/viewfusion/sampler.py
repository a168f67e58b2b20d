"""Interpolated denoising: one view, denoised in the light of several references at once (Yang et al. 2024, ViewFusion).

At every step the references' updates of one common x are blended. DDIM's update is linear in the predicted noise, so
that is one update with the blended prediction

    e = e_u + s (sum_k w_k e_k - e_u) = (1 - s) e_u + sum_k s w_k e_k

where e_u, without a condition, is the same for all references: V + 1 evaluations of the UNet in a step instead of the
official 2 V. `projects.viewfusion.reference` is the official loop, kept to compare with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from core.attention.multiview import remembered_contexts
from core.diffusion.samplers import DDIMSchedule, ddim_step
from core.diffusion.steps import ldm_num_steps
from projects.viewfusion.model import Zero123

Noise = Literal["per_condition", "shared"]
Normal = Callable[[tuple[int, ...]], Tensor]  # standard normal noise of a shape, where the model is


@dataclass(frozen=True)
class References:
    """The views that one view is made from, as the denoiser reads them."""

    context: Float[Tensor, "v 1 e"]
    latents: Float[Tensor, "v c h w"]  # unscaled
    weights: Float[Tensor, "v"]

    def __len__(self) -> int:
        return len(self.weights)

    def only(self, index: int) -> "References":
        """One of them, with all the weight."""
        one = slice(index, index + 1)
        return References(self.context[one], self.latents[one], torch.ones_like(self.weights[one]))

    def mixed(self) -> "References":
        """One that is the weighted mean of all, in token and latents."""
        context = torch.einsum("v,vle->le", self.weights, self.context.to(self.weights))[None]
        latents = torch.einsum("v,vchw->chw", self.weights, self.latents.to(self.weights))[None]
        return References(context, latents, torch.ones_like(self.weights[:1]))


def ddim_schedule(
    alphas_cumprod: Float[Tensor, "t"],
    num_steps: int,
    *,
    eta: float = 1.0,
    spacing: str = "leading",
    drop_last: bool = True,
) -> DDIMSchedule:
    """The steps that are made, ascending in time.

    Args:
        spacing: `leading` is the official rule, with its odd counts (75 asked for are 77 timesteps, 76 of them made);
            `trailing` begins at the last timestep, and gives as many as asked (`core.diffusion.steps`).
        drop_last: leave out the noisiest, as the official sampler does (of `leading` only): x_T is pure noise, though
            the step that it enters is not the last.
    """
    if spacing == "trailing":
        return DDIMSchedule.uniform(alphas_cumprod, num_steps, eta=eta, spacing=spacing)
    num_timesteps = len(alphas_cumprod)
    made = ldm_num_steps(num_steps, num_timesteps, drop_last=drop_last)
    timesteps = torch.arange(0, num_timesteps, num_timesteps // num_steps) + 1
    return DDIMSchedule.at(alphas_cumprod, timesteps, eta=eta)[:made]


@dataclass(frozen=True)
class Rows:
    """A batch of the UNet's: conditions, and the factor of each one's prediction in the blended one."""

    context: Float[Tensor, "n 1 e"]
    latents: Float[Tensor, "n c h w"]
    factors: Float[Tensor, "n"]

    @classmethod
    def of(cls, references: References, guidance_scale: float, rows_per_batch: int) -> list["Rows"]:
        """Batches for a whole step; the first row has no condition, unless guidance does not ask for it."""
        context, latents = references.context, references.latents
        factors = guidance_scale * references.weights
        if guidance_scale != 1.0:
            # The null condition is zero after the projection.
            context = torch.cat([torch.zeros_like(context[:1]), context])
            latents = torch.cat([torch.zeros_like(latents[:1]), latents])
            factors = torch.cat([factors.new_tensor([1 - guidance_scale]), factors])
        pieces = (tensor.split(rows_per_batch) for tensor in (context, latents, factors))
        return [cls(*piece) for piece in zip(*pieces, strict=True)]


def blended_noise(model: Zero123, x: Float[Tensor, "1 c h w"], t: Tensor, rows: list[Rows]) -> Float[Tensor, "1 c h w"]:
    """The blended, guided prediction; `t` is a scalar timestep."""
    total = torch.zeros_like(x)
    for batch in rows:
        n = len(batch.factors)
        noise = model.predict(x.expand(n, -1, -1, -1), t.expand(n), batch.context, batch.latents)
        total += torch.einsum("n,nchw->chw", batch.factors, noise.to(x))
    return total


@torch.no_grad()
def sample(
    model: Zero123,
    references: References,
    normal: Normal,
    *,
    schedule: DDIMSchedule,
    guidance_scale: float = 3.0,
    noise: Noise = "shared",
    rows_per_batch: int = 8,
    pick: Callable[[Tensor], int] | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "1 c h w"]:
    """Scaled latents of the view, from noise.

    Args:
        normal: called for x_T [1, c, h, w], then once per step, the last one too: [V, c, h, w] or [1, c, h, w].
        noise: `per_condition`: each reference's update adds noise of its own, so what is blended has less variance than
            eta says, sum w_k^2, and the views are smoother; `shared`: all add the same.
        rows_per_batch: conditions in one batch of the UNet: a bound on memory without effect on the result.
        pick: chooses, of the weights, the one reference of each step (stochastic conditioning); None blends all.
        on_step: called after each step with its number from 0 and x.
    """
    shape = tuple(references.latents.shape[1:])
    num_noises = len(references) if noise == "per_condition" else 1
    with remembered_contexts(model.unet):
        each = [references.only(k) for k in range(len(references))] if pick else [references]
        rows = [Rows.of(one, guidance_scale, rows_per_batch) for one in each]
        x = normal((1, *shape))
        for number, i in enumerate(reversed(range(len(schedule)))):
            chosen = pick(references.weights) if pick else 0
            eps = blended_noise(model, x, schedule.timesteps[i], rows[chosen])
            added = normal((num_noises, *shape))
            if num_noises > 1:
                added = torch.einsum("v,vchw->chw", references.weights.to(added), added)[None]
            x, _ = ddim_step(x, eps, schedule.alphas[i], schedule.alphas_prev[i], schedule.sigmas[i], added)
            if on_step is not None:
                on_step(number, x)
    return x
