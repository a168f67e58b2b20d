"""From posed images to views at other poses, one after the other: each view is a reference of the next ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.config import number, one_of, whole
from core.errors import BadRequest
from core.models.encoders import ImageEncoder
from core.models.latents import Latents
from projects.viewfusion.fusion import Step, nearest_only
from projects.viewfusion.model import Zero123
from projects.viewfusion.sampler import Noise, Normal, References, ddim_schedule, sample
from projects.viewfusion.switches import FUSIONS, NOISES


class Draws:
    """All that is random in making one object's views; noise is drawn on the CPU, the same for every device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise."""
        return torch.randn(shape, generator=self.generator)

    def index(self, weights: Float[Tensor, "v"]) -> int:
        """A number below V, drawn with these probabilities."""
        return int(torch.multinomial(weights.float().cpu(), 1, generator=self.generator))


@dataclass(frozen=True)
class Encoded:
    """An image as a condition: CLIP's token, and the autoencoder's mean in its own, unscaled units."""

    token: Float[Tensor, "1 1 e"]
    latents: Float[Tensor, "1 c h w"]


def replayed(recorded: Sequence[Tensor], normal: Normal) -> Normal:
    """Noise as recorded, and fresh noise after that."""
    rest = iter(recorded)

    def draw(shape: tuple[int, ...]) -> Tensor:
        noise = next(rest, None)
        return normal(shape) if noise is None else noise

    return draw


class ViewFusion:
    """Zero-1-to-3 with ViewFusion's sampling around it; nothing of it is trained.

    Args:
        num_steps: denoising steps that are asked for; how many are made, `sampler.ddim_schedule` says.
        fusion: what a view is made from (`switches.FUSIONS`): ViewFusion itself, or one of the paper's ablations.
        noise: `per_condition` or `shared` (`sampler.sample`).
        rows_per_batch: images that pass through a network at once.
    """

    def __init__(
        self,
        *,
        denoiser: Zero123,
        latents: Latents,
        image_encoder: ImageEncoder,
        num_steps: int = 75,
        guidance_scale: float = 3.0,
        eta: float = 1.0,
        noise: Noise = "shared",
        fusion: str = "interpolated_denoising",
        spacing: str = "leading",
        drop_last: bool = True,
        rows_per_batch: int = 8,
    ) -> None:
        whole("rows_per_batch", rows_per_batch)
        number("guidance_scale", guidance_scale, 0)
        self.denoiser, self.latents, self.image_encoder = denoiser, latents, image_encoder
        self.schedule = ddim_schedule(
            denoiser.schedule.alphas_cumprod, num_steps, eta=eta, spacing=spacing, drop_last=drop_last
        )
        self.guidance_scale = guidance_scale
        self.noise = one_of("noise", noise, NOISES)
        self.fusion = one_of("fusion", fusion, list(FUSIONS))
        self.rows_per_batch = rows_per_batch

    @property
    def device(self) -> torch.device:
        return self.denoiser.schedule.alphas_cumprod.device

    def plan(self, steps: Sequence[Step], inputs: Float[Tensor, "k 3"]) -> list[Step]:
        """The steps of interpolated denoising, as `fusion` takes them."""
        if self.fusion in ("zero123", "autoregression"):
            return nearest_only(steps, inputs, generated=self.fusion == "autoregression")
        return list(steps)

    @torch.no_grad()
    def views(
        self,
        inputs: Float[Tensor, "k 3 h w"],
        steps: Sequence[Step],
        draws: Draws,
        *,
        on_view: Callable[[], None] = lambda: None,
    ) -> Float[Tensor, "n 3 h w"]:
        """The views of a plan (`plan` has seen it), in its order; pixels in [-1, 1], clamped.

        A view is fed back as it was decoded, not as an 8-bit file would hold it. Every image is encoded once.

        BadRequest where the networks run over: such a view would be black, and spoil the next ones.
        """
        images = list(inputs)
        encoded: dict[int, Encoded] = {}
        for step in steps:
            new = [reference for reference in step.references if reference not in encoded]
            encoded |= dict(zip(new, self.encode([images[reference] for reference in new]), strict=True))
            conditions = [encoded[reference] for reference in step.references]
            tokens = torch.cat([condition.token for condition in conditions])
            references = References(
                self.denoiser.project(tokens, step.poses.to(tokens)),
                torch.cat([condition.latents for condition in conditions]),
                step.weights.to(self.device),  # in single precision whatever the networks compute in, as x
            )
            image = self.view(references, draws)
            if not image.isfinite().all():
                raise BadRequest(
                    f"view {len(images) - len(inputs)} is not finite; use precision=32 or bf16, or a smaller cfg_scale "
                    f"than {self.guidance_scale:g}"
                )
            images.append(image)
            on_view()
        made = images[len(inputs) :]
        return torch.stack(made) if made else inputs[:0]

    def encode(self, images: list[Float[Tensor, "3 h w"]]) -> list[Encoded]:
        """Conditions of images with pixels in [-1, 1]."""
        if not images:
            return []
        pixels = torch.stack(images)
        means = self.latents.mode(self.latents.moments(pixels)) / self.latents.scaling_factor
        tokens = self.image_encoder(pixels)
        return [Encoded(tokens[k : k + 1], means[k : k + 1]) for k in range(len(images))]

    def view(self, references: References, draws: Draws) -> Float[Tensor, "3 h w"]:
        """One view from its references, as `fusion` says."""
        if self.fusion == "interpolated_outputs":
            return self._mean_of_outputs(references, draws)
        if self.fusion == "interpolated_conditions":
            references = references.mixed()
        pick = draws.index if self.fusion == "stochastic_conditioning" else None
        return self._sampled(references, draws.normal, pick)

    def _sampled(
        self, references: References, normal: Normal, pick: Callable[[Tensor], int] | None = None
    ) -> Float[Tensor, "3 h w"]:
        made = sample(
            self.denoiser,
            references,
            lambda shape: normal(shape).to(self.device),
            schedule=self.schedule,
            guidance_scale=self.guidance_scale,
            noise=self.noise,
            rows_per_batch=self.rows_per_batch,
            pick=pick,
        )
        return self.latents.decode(made)[0].clamp(-1, 1)

    def _mean_of_outputs(self, references: References, draws: Draws) -> Float[Tensor, "3 h w"]:
        """The weighted mean of images, each sampled from one reference; x_T is one, and with `shared` the noise too."""
        shape = (1, *references.latents.shape[1:])
        start, *shared = [draws.normal(shape) for _ in range(len(self.schedule) + 1 if self.noise == "shared" else 1)]
        images = []
        for index in range(len(references)):
            images.append(self._sampled(references.only(index), replayed([start, *shared], draws.normal)))
        return torch.einsum("v,vchw->chw", references.weights, torch.stack(images))
