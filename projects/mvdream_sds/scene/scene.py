"""The parts of a scene together: what is optimised, rendered and saved."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.types import Rays
from projects.mvdream_sds.scene.background import Background
from projects.mvdream_sds.scene.geometry import ImplicitVolume
from projects.mvdream_sds.scene.materials import Material
from projects.mvdream_sds.scene.renderer import Rendered, VolumeRenderer

# Optimiser groups: a part's path -> its learning rate. Whatever stands in none of them is not optimised.
Rates = dict[str, float]


class Scene(nn.Module):
    """A field, its material, its background, and how they are rendered."""

    def __init__(
        self, *, geometry: ImplicitVolume, material: Material, background: Background, renderer: VolumeRenderer
    ) -> None:
        super().__init__()
        if geometry.radius != renderer.occupancy.bound:
            raise ValueError(
                f"scene.geometry.radius is {geometry.radius}, but scene.renderer.occupancy.bound "
                f"{renderer.occupancy.bound}; the cells must fill the field's cube"
            )
        if material.needs_normal and geometry.normal_type is None:
            raise ValueError("a material with a point light needs normals: set scene.geometry.normal_type=analytic")
        self.geometry, self.material = geometry, material
        self.background, self.renderer = background, renderer

    def update_step(self, step: int, generator: torch.Generator) -> None:
        """What training step `step` begins with: levels of a progressive grid, a look at what is occupied."""
        self.geometry.update_step(step)
        self.renderer.update_step(step, self.geometry, generator)

    def forward(self, rays: Rays, light_positions: Float[Tensor, "views 3"] | None = None, **options: Any) -> Rendered:
        """Pictures of rays [views, height, width]; `options` are those of `VolumeRenderer.forward`."""
        return self.renderer(
            rays,
            geometry=self.geometry,
            material=self.material,
            background=self.background,
            light_positions=light_positions,
            **options,
        )

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Optimiser groups {"name", "params", "lr"} of the parts at these paths, such as "geometry.encoding".

        Raises:
            ValueError: no such part, or a part within another one.
        """
        groups, seen = [], set[Tensor]()
        for path, rate in rates.items():
            try:
                parameters = list(self.get_submodule(path).parameters())
            except AttributeError:
                parts = ", ".join(name for name, _ in self.named_children())
                raise ValueError(f"rates.{path}: the scene has no such part; its parts are {parts}") from None
            if not seen.isdisjoint(parameters):
                raise ValueError(f"rates.{path}: another group holds some of its parameters too")
            seen.update(parameters)
            if parameters:
                groups.append({"name": path, "params": parameters, "lr": rate})
        return groups
