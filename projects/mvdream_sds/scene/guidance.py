"""Score distillation (Poole et al. 2022) from a multi-view denoiser, as x_0 reconstruction (Shi et al. 2023, sec. 3.3).

A step encodes the rendered views, adds noise, lets the frozen denoiser guess the clean latents of all views together,
and pulls the rendered ones towards that guess. The denoiser itself gets no gradient and none goes through it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from core.config import number, one_of, whole
from core.diffusion.guidance import classifier_free_guidance
from core.errors import BadConfig
from core.models.latents import Latents
from projects.mvdream_sds.cameras import condition
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.scene.annealing import Schedule, annealed, check_bounds

Views = Float[Tensor, "s v c h w"]
Noise = Float[Tensor, "b c h w"] | torch.Generator
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def predicted_start(x_t: Views, eps: Views, alpha_bar: Float[Tensor, ""]) -> Views:
    """x_0 = x_t / sqrt(abar) - sqrt(1 / abar - 1) eps."""
    alpha_bar = alpha_bar.double()
    return (1 / alpha_bar).sqrt().to(x_t) * x_t - (1 / alpha_bar - 1).sqrt().to(x_t) * eps


def rescaled(x_0: Views, conditional: Views, amount: float) -> Views:
    """Part of x_0 brought back to the standard deviation of the unguided one (Lin et al. 2023, eq. 15 and 16).

    Strong guidance blows contrast up; the deviation is taken over all views of a scene together.
    """

    def deviation(x: Views) -> Float[Tensor, "s 1 1 1 1"]:
        return x.std(dim=(1, 2, 3, 4), keepdim=True) + 1e-8

    return amount * x_0 * (deviation(conditional) / deviation(x_0)) + (1 - amount) * x_0


class MultiViewGuidance:
    """What a frozen denoiser thinks of rendered views, as a loss."""

    def __init__(
        self,
        *,
        denoiser: MultiViewDenoiser,
        latents: Latents,
        num_views: int = 4,
        image_size: int = 256,
        guidance_scale: float = 50.0,
        min_step_percent: Schedule = (0, 0.98, 0.02, 8000),
        max_step_percent: Schedule = (0, 0.98, 0.50, 8000),
        recon_loss: bool = True,
        recon_std_rescale: float = 0.5,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
        max_scenes: int = 0,
        compile: bool = False,
    ) -> None:
        """
        Args:
            denoiser, latents: are frozen here, and put into evaluation mode.
            num_views: of a scene; they stand next to each other in a batch.
            image_size: rendered views are resized to this side before they are encoded.
            min_step_percent, max_step_percent: bounds of the timestep, as parts of all; schedules over training steps.
            recon_loss: compare latents with the guess of x_0; false is plain score distillation, with w = 1 - abar.
            recon_std_rescale: how much of the guess is `rescaled`.
            precision: of the frozen networks.
            max_scenes: that the denoiser sees at once, each twice (with text and without); 0: all. A bound on memory
                without effect on the result.
            compile: the denoiser by torch.compile, in the first step of each stage; the same to rounding.
        """
        number("guidance.guidance_scale", guidance_scale, 0)
        number("guidance.recon_std_rescale", recon_std_rescale, 0, 1)
        one_of("guidance.precision", precision, tuple(PRECISIONS))
        for name, value, least in (("num_views", num_views, 1), ("max_scenes", max_scenes, 0)):
            whole(f"guidance.{name}", value, least=least)
        if whole("guidance.image_size", image_size) or image_size % latents.reduction:
            raise BadConfig(f"guidance.image_size={image_size}: expected a multiple of {latents.reduction}")
        check_bounds("guidance.min_step_percent", min_step_percent, "guidance.max_step_percent", max_step_percent)
        self.denoiser, self.latents = denoiser.eval().requires_grad_(False), latents.eval().requires_grad_(False)
        self.num_views, self.image_size, self.guidance_scale = num_views, image_size, guidance_scale
        self.min_step_percent, self.max_step_percent = min_step_percent, max_step_percent
        self.recon_loss, self.recon_std_rescale = recon_loss, recon_std_rescale
        self.precision, self.max_scenes = precision, max_scenes
        self._compiled = torch.compile(denoiser.predict, dynamic=False) if compile else None

    def timesteps(self, step: int) -> tuple[int, int]:
        """The first and the last timestep that training step `step` may draw."""
        total = self.denoiser.schedule.num_timesteps
        low, high = (int(total * annealed(s, step)) for s in (self.min_step_percent, self.max_step_percent))
        return low, max(low, high)  # equal bounds may be rounded apart

    def encode(self, rgb: Float[Tensor, "b height width 3"], noise: Noise) -> Float[Tensor, "b c h w"]:
        """Latents, sampled, of images in [0, 1]; gradients flow back to the images."""
        images = rearrange(rgb, "b h w c -> b c h w")
        size = (self.image_size, self.image_size)
        pixels = F.interpolate(images, size, mode="bilinear", align_corners=False) * 2 - 1
        with self._cast(rgb.device):
            return self.latents.encode(pixels, noise).float()

    def __call__(
        self,
        rgb: Float[Tensor, "b height width 3"],
        context: tuple[Float[Tensor, "s1 _v1 l e"], Float[Tensor, "s2 _v2 l e"]],
        poses: Float[Tensor, "b 4 4"],
        *,
        step: int,
        generator: torch.Generator,
    ) -> dict[str, Float[Tensor, ""]]:
        """The loss of rendered views.

        Args:
            rgb: b = scenes * num_views pictures in [0, 1].
            context: of the text, and of the negative one: for each scene (or one for all) [1, l, e] or one per view.
            poses: camera-to-world, core's convention.
            generator: of all that the step draws: the timestep, the encoder's sample, the noise.

        Returns:
            "loss_sds", and to be logged "grad_norm" (of its gradient at the latents) and "timestep".
        """
        low, high = self.timesteps(step)
        t = torch.randint(low, high + 1, (), generator=generator, device=generator.device)
        return self.distill(self.encode(rgb, generator), context, poses, t=t, noise=generator)

    def distill(
        self,
        latents: Float[Tensor, "b c h w"],
        context: tuple[Float[Tensor, "s1 _v1 l e"], Float[Tensor, "s2 _v2 l e"]],
        poses: Float[Tensor, "b 4 4"],
        *,
        t: Int[Tensor, ""],
        noise: Noise,
    ) -> dict[str, Float[Tensor, ""]]:
        """The loss of latents, at one timestep for all."""
        if len(latents) % self.num_views:
            raise ValueError(f"expected a multiple of {self.num_views} views, got {len(latents)}")
        if isinstance(noise, torch.Generator):
            noise = torch.randn(latents.shape, generator=noise, device=noise.device)
        z, noise, camera = (
            rearrange(x, "(s v) ... -> s v ...", v=self.num_views)
            for x in (latents, noise.to(latents), condition(poses.to(latents)))
        )
        with torch.no_grad():
            t = t.to(latents.device).expand(len(z))
            x_t = self.denoiser.schedule.add_noise(z, noise, t)
            eps_cond, eps_uncond = self._noises(x_t, t, context, camera)
            eps = classifier_free_guidance(eps_cond, eps_uncond, self.guidance_scale)
            alpha_bar = self.denoiser.schedule.alphas_cumprod[t[0]]
            if self.recon_loss:
                target = predicted_start(x_t, eps, alpha_bar)
                if self.recon_std_rescale > 0:
                    target = rescaled(target, predicted_start(x_t, eps_cond, alpha_bar), self.recon_std_rescale)
            else:
                target = z - torch.nan_to_num((1 - alpha_bar) * (eps - noise))
        loss = 0.5 * (z - target).square().sum() / len(latents)
        # Quirk: plain distillation reports the norm before it is divided by the number of views.
        norm = (z - target).detach().norm() / (len(latents) if self.recon_loss else 1)
        return {"loss_sds": loss, "grad_norm": norm, "timestep": t[0].float()}

    def _noises(
        self, x_t: Views, t: Int[Tensor, "s"], context: tuple[Tensor, Tensor], camera: Float[Tensor, "s v d"]
    ) -> tuple[Views, Views]:
        """The noise in x_t by the text, and by the negative one."""
        views = max(c.shape[1] for c in context)  # a text each for one of them, and one for all for the other
        texts = torch.cat([c.to(x_t).expand(len(x_t), views, -1, -1) for c in context])
        inputs = [torch.cat([x, x]) for x in (x_t, t, camera)]
        size = 2 * self.max_scenes or len(texts)
        parts = zip(inputs[0].split(size), inputs[1].split(size), texts.split(size), inputs[2].split(size), strict=True)
        with self._cast(x_t.device):
            eps = torch.cat([self._guess(*part) for part in parts])
        conditional, unconditional = eps.to(x_t.dtype).chunk(2)
        return conditional, unconditional

    def _guess(self, *part: Tensor) -> Views:
        """The denoiser's; BadConfig where it cannot be compiled."""
        if self._compiled is None:
            return self.denoiser.predict(*part)
        from torch._dynamo.exc import TorchDynamoException  # loading it costs a second, which torch.compile has paid

        try:
            return self._compiled(*part)
        except TorchDynamoException as error:
            cause = " ".join(str(error).strip().partition("\n\n")[0].split())  # what follows tells of log settings
            raise BadConfig(
                f"guidance.compile=true: torch.compile cannot do it here ({cause}); set it to false"
            ) from error

    def _cast(self, device: torch.device) -> torch.autocast:
        """The frozen networks' precision, whatever the one around it is."""
        dtype = PRECISIONS[self.precision]
        return torch.autocast(device.type, dtype, enabled=dtype is not None)
