"""Score distillation as the trainer runs it: a scene that learns, a frozen model that teaches, and no data.

Cameras, noise, shading and backgrounds are drawn in the loss from the step's generator, and the rest of what a step
needs follows from its number. So a run killed anywhere goes on bit for bit; what is occupied is part of a checkpoint.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.config import number
from core.errors import BadConfig
from core.images import composite, contact_sheet
from core.metrics.janus import janus, opposite
from core.training.module import Batch, TrainingModule
from core.training.randomness import generator as seeded
from core.types import Rays
from projects.mvdream_sds.scene.cameras import OrbitCameras, RandomCameras
from projects.mvdream_sds.scene.draws import Seeded
from projects.mvdream_sds.scene.guidance import MultiViewGuidance
from projects.mvdream_sds.scene.losses import SceneLosses
from projects.mvdream_sds.scene.networks import full_precision
from projects.mvdream_sds.scene.prompts import Directions, Prompts
from projects.mvdream_sds.scene.scene import Scene
from projects.mvdream_sds.scene.text_cache import encode_cached
from projects.mvdream_sds.scene.views import see
from projects.mvdream_sds.system import MultiViewSystem
from projects.mvdream_sds.weights import files_of, load_weights

GRAY = 0.5  # behind the probes' views: neither a dark nor a light object vanishes
LOGGED_WHEN_VALIDATING = ("loss", "loss_sds")


class ScoreDistillation(TrainingModule):
    """The scene, under `scene.`, with the frozen networks that teach it.

    Args:
        teacher: the multi-view model, whose text encoder and decoder are let go once the texts are encoded.
        weights: its weights; None keeps what it was built with.
        lora: adapters that are merged into them, or None.
        guidance: makes the guidance from a denoiser and latents.
        rates: learning rates of the scene's parts, by name, in units of `lr`; of a part's parts likewise.
        orbit: the views of previews and of the Janus probe.
        directions: when views are called front, side, back or overhead (`Directions`); None says the prompt alone.
        text_cache: folder for texts' features; None keeps none.
        recompute: keep no activations of field and encoder for the backward pass: slower, the same gradients.
    """

    # There is no data: the cameras stand for it, and what the scene is told and held to.
    data_settings = tuple(
        f"model.{key}" for key in ("prompt", "negative_prompt", "directions", "cameras", "guidance", "losses", "scene")
    )
    harmless_settings = tuple(
        f"model.{key}"
        for key in ("recompute", "text_cache", "guidance.max_scenes", "guidance.compile", "scene.renderer.chunk")
    )
    memory_hint = (
        "set recompute=true or guidance.max_scenes=1; or guidance.precision=bf16, or cameras.batch_size or width and "
        "height lower, which a run that has begun takes only with force_resume=true"
    )

    def __init__(
        self,
        *,
        scene: Scene,
        teacher: MultiViewSystem,
        weights: str | None,
        lora: str | None = None,
        guidance: Callable[..., MultiViewGuidance],
        cameras: RandomCameras,
        losses: SceneLosses,
        rates: dict[str, Any],
        orbit: OrbitCameras,
        prompt: str,
        negative_prompt: str = "",
        directions: dict[str, Any] | None = None,
        text_cache: str | None = None,
        recompute: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        _check_scene(scene, losses)
        if lora is not None and weights is None:
            raise BadConfig(f"lora={lora}: adapters go onto a model's weights; give weights=")
        if weights is not None:
            load_weights(teacher, *files_of(weights, lora))
        cache = None if text_cache is None else Path(text_cache)
        self.prompts = Prompts(
            lambda texts: encode_cached(teacher.text_encoder, texts, cache),
            prompt,
            negative_prompt,
            directions=None if directions is None else Directions(**directions),
        )
        self.scene = scene
        self.denoiser, self.latents = teacher.denoiser, teacher.latents
        self.latents.vae.decoder = self.latents.vae.post_quant_conv = None  # what is rendered is only encoded
        self.guidance = guidance(denoiser=self.denoiser, latents=self.latents)
        self.cameras, self.losses, self.orbit = cameras, losses, orbit.views().cameras
        if not opposite(self.orbit, 1.0):
            raise BadConfig(
                f"orbit.num_views={len(self.orbit)}: the Janus probe needs opposite views; give an even number"
            )
        self.rates = _flat(rates)
        if recompute:
            scene.renderer.recompute = True
            self.latents.vae.enable_gradient_checkpointing()

    def setting_name(self, key: str) -> str:
        """The program's settings stand at its top; the prompts are data too (`run_settings.distillation`)."""
        top, _, rest = key.partition(".")
        part, _, last = rest.partition(".")
        if part == "directions":
            return f"{last}_threshold" if last in ("front", "back", "overhead") else "view_dependent"
        if part == "teacher":
            return f"model.{last}"
        return rest if top == "model" or rest in ("prompt", "negative_prompt") else key

    def train(self, mode: bool = True) -> "ScoreDistillation":
        """What teaches stays in evaluation mode."""
        super().train(mode)
        for network in (self.denoiser, self.latents):
            network.eval()
        return self

    def frozen(self) -> Iterable[tuple[str, Tensor]]:
        """All of the teacher, buffers too."""
        return ((name, value) for name, value in self.state_dict().items() if not name.startswith("scene."))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        return self.scene.parameter_groups({part: lr * rate for part, rate in self.rates.items()})

    def export(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scene."""
        return {name: value for name, value in state.items() if name.startswith("scene.")}

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """One step of score distillation. In validation, whose draws are always the same, also the probes.

        The scene is in 32 bits under any `trainer.precision`; the frozen networks have the guidance's own.
        """
        with full_precision(self.device):
            return self._loss(generator)

    def _loss(self, generator: torch.Generator) -> dict[str, Tensor]:
        draws = Seeded(generator)
        if self.training:
            # Alike on all ranks, whose scenes are alike: so are the cells that they take for empty.
            self.scene.update_step(self.step, seeded(self.seed, self.step, stream="occupancy"))
        views = self.cameras.draw(self.step, draws)
        rays = Rays(views.rays.origins.to(self.device), views.rays.directions.to(self.device))
        normals = self.scene.material.needs_normal or self.losses.needs_normal(self.step)
        rendered = self.scene(rays, views.light_positions, step=self.step, draws=draws, normals=normals)
        azimuth, elevation = (
            rearrange(angles, "(s v) -> s v", v=self.cameras.num_views)
            for angles in (views.azimuth_deg, views.elevation_deg)
        )
        guidance = self.guidance(
            rendered.rgb, self.prompts(azimuth, elevation), views.cameras.poses, step=self.step, generator=generator
        )
        guidance["latent_grad_norm"] = guidance.pop("grad_norm")  # the trainer logs the parameters' by that name
        terms = self.losses(guidance, rendered, step=self.step)
        shown = {"opacity": rendered.opacity.detach().mean(), "samples_per_ray": torch.tensor(rendered.samples_per_ray)}
        if self.training:
            return {**terms, **shown}
        return {name: terms[name] for name in LOGGED_WHEN_VALIDATING} | self._probes()

    def _probes(self) -> dict[str, Tensor]:
        """Of evenly spaced views: how alike front and back are, and how much of a view is object."""
        rgba = see(self.scene, self.orbit, step=self.step).rgba
        alike = janus(composite(rgba, GRAY), rgba[:, 3], self.orbit).mean()
        return {"janus": alike, "opacity": rgba[:, 3].mean()}

    @torch.no_grad()
    def preview(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "3 h w"]:
        """The views around, in rows: over white, normals, opacity."""
        seen = see(self.scene, self.orbit, step=self.step, normals=True)
        assert seen.normal is not None
        rows = [composite(seen.rgba), seen.normal, seen.opacity.expand(-1, 3, -1, -1)]
        return contact_sheet(torch.cat(rows), len(seen.rgba))


def _check_scene(scene: Scene, losses: SceneLosses) -> None:
    """Refuse scenes that could be built but not optimised."""
    geometry = scene.geometry
    if geometry.normal_type is None and losses.ever_needs_normal:
        raise BadConfig(
            f"losses.orient={losses.schedules['orient']} needs normals, but scene.geometry.normal_type is null; set "
            "scene.geometry.normal_type=analytic, or losses.orient=0"
        )
    if geometry.feature_dim != 3:
        raise BadConfig(f"scene.geometry.feature_dim={geometry.feature_dim}: a colour has 3")


def _flat(rates: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Rates by path."""
    flat: dict[str, float] = {}
    for name, rate in rates.items():
        if isinstance(rate, dict):
            flat |= _flat(rate, f"{prefix}{name}.")
        else:
            number(f"rates.{prefix}{name}", rate, 0)
            flat[f"{prefix}{name}"] = float(rate)
    return flat
