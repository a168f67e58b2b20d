"""The noise schedule all Stable-Diffusion descendants share, and the sinusoidal embedding of a timestep."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

NUM_TIMESTEPS = 1000


def scaled_linear_betas(
    start: float = 0.00085, end: float = 0.012, num: int = NUM_TIMESTEPS, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "t"]:
    """beta_t: linear in its square root."""
    return torch.linspace(start**0.5, end**0.5, num, dtype=dtype) ** 2


class NoiseSchedule(nn.Module):
    """q(x_t | x_0) and the posterior's variance, as buffers (Ho et al. 2020, eq. 4 and 7).

    They are saved with the weights: a loaded checkpoint brings its own, which differ in the last digits.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor

    def __init__(
        self,
        *,
        start: float = 0.00085,
        end: float = 0.012,
        num_timesteps: int = NUM_TIMESTEPS,
        least_log_variance: float = -10.0,
    ) -> None:
        """
        Args:
            least_log_variance: of the posterior, whose variance is 0 at t = 0: -10 as SyncDreamer has it; MVDream has
                the logarithm of 1e-20. No sampler here reads it.
        """
        super().__init__()
        betas = scaled_linear_betas(start, end, num_timesteps)
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        before = torch.cat([alphas_cumprod.new_ones(1).double(), alphas_cumprod.double()[:-1]])
        variance = betas.double() * (1 - before) / (1 - alphas_cumprod.double())
        buffers = {
            "betas": betas,
            "alphas": 1 - betas,
            "alphas_cumprod": alphas_cumprod,
            "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - alphas_cumprod).sqrt(),
            "posterior_variance": variance.float(),
            "posterior_log_variance_clipped": variance.log().clamp(min=least_log_variance).float(),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)

    @property
    def num_timesteps(self) -> int:
        return len(self.betas)

    def add_noise(
        self, x_0: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], t: Int[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise."""
        signal, sigma = self._factors(t, x_0.ndim)
        return signal * x_0 + sigma * noise

    def draw_timesteps(self, count: int, generator: torch.Generator, *, power: float = 1.0) -> Int[Tensor, "count"]:
        """t for training, on the generator's device: T u^(1 / power), u uniform in [0, 1).

        A power of 1 draws each t as often as any other, a larger one more of those with much noise.
        """
        if power == 1:
            return torch.randint(0, self.num_timesteps, (count,), generator=generator, device=generator.device)
        u = torch.rand(count, generator=generator, device=generator.device)
        return (self.num_timesteps * u ** (1 / power)).long().clamp(max=self.num_timesteps - 1)  # u^... may round to 1

    def noise_of(
        self, output: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Int[Tensor, "b"], *, prediction: str
    ) -> Float[Tensor, "b ..."]:
        """The noise in x_t, of a network's output that means the `noise` or the `velocity`."""
        return output if prediction == "noise" else self.noise_from_velocity(output, x_t, t)

    def noise_from_velocity(
        self, velocity: Float[Tensor, "b ..."], x_t: Float[Tensor, "b ..."], t: Int[Tensor, "b"]
    ) -> Float[Tensor, "b ..."]:
        """The noise in x_t: sqrt(abar_t) v + sqrt(1 - abar_t) x_t, for the velocity
        v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0 (Salimans & Ho 2022)."""
        signal, sigma = self._factors(t, x_t.ndim)
        return signal * velocity + sigma * x_t

    def _factors(self, t: Int[Tensor, "b"], ndim: int) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (ndim - 1))
        return self.sqrt_alphas_cumprod[t].reshape(shape), self.sqrt_one_minus_alphas_cumprod[t].reshape(shape)


def timestep_embedding(t: Int[Tensor, "b"], dim: int, max_period: float = 10000.0) -> Float[Tensor, "b dim"]:
    """[cos(t f), sin(t f)] with f from 1 down to 1 / max_period: cosines first (Vaswani et al. 2017)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
