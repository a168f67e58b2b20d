"""DDIM as the LDM family runs it (Song et al. 2021), step for step.

diffusers' `DDIMScheduler` gives the same single steps (a test compares them); the loops of SyncDreamer and ViewFusion
need all views inside one step, so the loop is theirs and the arithmetic stands here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.diffusion.steps import check_num_steps


def uniform_timesteps(num_steps: int, num_timesteps: int = 1000, spacing: str = "leading") -> Int[Tensor, "steps"]:
    """Ascending, by the rule named (`core.diffusion.steps`); BadRequest for a count that it cannot give."""
    check_num_steps(num_steps, num_timesteps, spacing)
    if spacing == "trailing":
        return torch.arange(1, num_steps + 1).mul(num_timesteps / num_steps).round().long() - 1
    return torch.arange(0, num_timesteps, num_timesteps // num_steps) + 1


@dataclass(frozen=True)
class DDIMSchedule:
    """Per step, ascending in time: timestep t, abar_t, abar_s of the step before it, and the added noise's sigma."""

    timesteps: Int[Tensor, "steps"]
    alphas: Float[Tensor, "steps"]
    alphas_prev: Float[Tensor, "steps"]
    sigmas: Float[Tensor, "steps"]

    @classmethod
    def uniform(
        cls, alphas_cumprod: Float[Tensor, "t"], num_steps: int, *, eta: float = 1.0, spacing: str = "leading"
    ) -> "DDIMSchedule":
        """Of `uniform_timesteps`."""
        return cls.at(alphas_cumprod, uniform_timesteps(num_steps, len(alphas_cumprod), spacing), eta=eta)

    @classmethod
    def at(
        cls, alphas_cumprod: Float[Tensor, "t"], timesteps: Int[Tensor, "steps"], *, eta: float = 1.0
    ) -> "DDIMSchedule":
        """Of ascending timesteps; before the first stands abar_0, as in the LDM family."""
        timesteps = timesteps.to(alphas_cumprod.device)
        alphas = alphas_cumprod[timesteps].double()
        alphas_prev = torch.cat([alphas_cumprod[:1].double(), alphas[:-1]])
        sigmas = eta * ((1 - alphas_prev) / (1 - alphas) * (1 - alphas / alphas_prev)).sqrt()
        return cls(timesteps, alphas.float(), alphas_prev.float(), sigmas.float())

    def __len__(self) -> int:
        return len(self.timesteps)

    def __getitem__(self, steps: slice) -> "DDIMSchedule":
        """Some of the steps, as they are."""
        return DDIMSchedule(self.timesteps[steps], self.alphas[steps], self.alphas_prev[steps], self.sigmas[steps])


def ddim_step(
    x_t: Tensor, eps: Tensor, alpha: Tensor, alpha_prev: Tensor, sigma: Tensor, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step back in time; also returns the predicted x_0 (Song et al. 2021, eq. 12). `noise=None` adds none."""
    x_0 = (x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    direction = (1 - alpha_prev - sigma**2).clamp(min=1e-7).sqrt() * eps
    x_s = alpha_prev.sqrt() * x_0 + direction
    return (x_s if noise is None else x_s + sigma * noise), x_0
