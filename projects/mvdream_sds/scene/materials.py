"""From features to colours: as they are, or shaded by a point light (Poole et al. 2022, section 3.1)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.config import number, whole
from projects.mvdream_sds.scene.draws import Draws
from projects.mvdream_sds.scene.networks import activation

Light = Float[Tensor, "3"]


@dataclass(frozen=True)
class Shading:
    """How one step is shaded: the same for all its views, so that they show one object."""

    kind: Literal["albedo", "textureless", "diffuse"]
    ambient: Light
    diffuse: Light


class NoMaterial(nn.Module):
    """Colour is the features' activation; there is no light."""

    needs_normal = False

    def __init__(self, *, color_activation: str = "sigmoid") -> None:
        super().__init__()
        self.activate = activation(color_activation)

    def choose(self, step: int, draws: Draws | None) -> None:
        """Nothing to choose, nothing drawn."""

    def forward(
        self,
        features: Float[Tensor, "n 3"],
        positions: Float[Tensor, "n 3"] | None = None,
        normal: Float[Tensor, "n 3"] | None = None,
        light: Float[Tensor, "n 3"] | None = None,
        shading: None = None,
    ) -> Float[Tensor, "n 3"]:
        return self.activate(features)

    def albedo(self, features: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Base colour in [0, 1], for export."""
        return self.activate(features).clamp(0, 1)


class PointLightMaterial(nn.Module):
    """Lambert's law under one point light and an ambient one."""

    needs_normal = True
    ambient_color: Tensor  # buffers [3]
    diffuse_color: Tensor

    def __init__(
        self,
        *,
        ambient_color: list[float] | tuple[float, ...] = (0.1, 0.1, 0.1),
        diffuse_color: list[float] | tuple[float, ...] = (0.9, 0.9, 0.9),
        ambient_only_steps: int = 1000,
        diffuse_prob: float = 0.75,
        textureless_prob: float = 0.5,
        soft_shading: bool = False,
        color_activation: str = "sigmoid",
    ) -> None:
        """
        Args:
            ambient_color, diffuse_color: of the lights in evaluation, and in training unless `soft_shading`.
            ambient_only_steps: training shows the plain base colour for so many steps.
            diffuse_prob: probability of light in a later step, and `textureless_prob` of leaving the base colour out of
                a lit one, so that shape can't be painted on.
            soft_shading: training draws how much of the light is diffuse.
        """
        super().__init__()
        whole("ambient_only_steps", ambient_only_steps, least=0)
        number("diffuse_prob", diffuse_prob, 0, 1)
        number("textureless_prob", textureless_prob, 0, 1)
        self.ambient_only_steps, self.soft_shading = ambient_only_steps, soft_shading
        self.diffuse_prob, self.textureless_prob = diffuse_prob, textureless_prob
        self.activate = activation(color_activation)
        self.register_buffer("ambient_color", torch.tensor(ambient_color, dtype=torch.float32))
        self.register_buffer("diffuse_color", torch.tensor(diffuse_color, dtype=torch.float32))

    def choose(self, step: int, draws: Draws | None) -> Shading:
        """The shading of step `step`: in training drawn, in evaluation fixed by the step alone.

        The order of the coins is the published one: ratio of the lights, whether there is light, whether texture.
        """
        ambient_only = step < self.ambient_only_steps
        if not self.training:
            return self.shading("albedo" if ambient_only else "diffuse")
        if draws is None:
            raise ValueError("a training material needs draws")
        ratio = 1 - draws.coin() if self.soft_shading else None
        if ambient_only or draws.coin() > self.diffuse_prob:
            return self.shading("albedo", ratio)
        return self.shading("textureless" if draws.coin() < self.textureless_prob else "diffuse", ratio)

    def shading(self, kind: Literal["albedo", "textureless", "diffuse"], ambient_ratio: float | None = None) -> Shading:
        """A shading of this kind: with the material's lights, or white ones of which so much is ambient."""
        if ambient_ratio is None:
            return Shading(kind, self.ambient_color, self.diffuse_color)
        ambient = torch.full_like(self.ambient_color, ambient_ratio)
        return Shading(kind, ambient, 1 - ambient)

    def forward(
        self,
        features: Float[Tensor, "n 3"],
        positions: Float[Tensor, "n 3"],
        normal: Float[Tensor, "n 3"],
        light: Float[Tensor, "n 3"],
        shading: Shading,
    ) -> Float[Tensor, "n 3"]:
        """Colours of points at `positions`, lit from `light` (a position for each point)."""
        albedo = self.activate(features)
        if shading.kind == "albedo":
            return albedo
        cosine = (normal * F.normalize(light - positions, dim=-1)).sum(-1, keepdim=True).clamp(min=0)
        lit = cosine * shading.diffuse + shading.ambient
        return lit if shading.kind == "textureless" else albedo.clamp(0, 1) * lit

    def albedo(self, features: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Base colour in [0, 1], for export."""
        return self.activate(features).clamp(0, 1)


Material = NoMaterial | PointLightMaterial
