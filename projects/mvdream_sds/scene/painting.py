"""The colours of a mesh that stands for a scene: base colours, without light.

A learnt field is seldom a solid with a skin: its density rises over some depth, and its colours change in there. What
one sees is a mixture. `at_surface` takes the colour where the mesh happens to lie, as the official export does;
`seen` takes the mixture that a ray finds which enters there, straight against the surface.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from projects.mvdream_sds.export import COLORS
from projects.mvdream_sds.scene.scene import Scene

Painter = Callable[[Scene, Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]]
CHUNK = 1 << 16  # points that pass through the field at once
OUTSIDE = 2  # sections of a ray before the surface, at most: the mesh lies where density is high already
CLEAR = 1e-3  # opacity of a ray that met nothing
OPAQUE = 0.01  # a ray ends where less light than this comes from beyond


def at_surface(scene: Scene, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Base colours in [0, 1] at points, on the CPU; `normals` do not matter."""
    return _in_parts(lambda points: _look(scene, points)[1], scene, points)


def seen(scene: Scene, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Base colours in [0, 1], on the CPU, along rays that enter at points of a surface against its unit normals.

    C = sum_i w_i c_i / sum_i w_i with w_i = T_i alpha_i, in the sections of the scene's own renderer, from a little
    outside to where nothing more is seen, at most half the cube deep. A ray that meets nothing has its point's colour.
    """
    return _in_parts(lambda points, normals: _along_rays(scene, points, normals), scene, points, normals)


PAINTERS: dict[str, Painter] = dict(zip(COLORS, (seen, at_surface), strict=True))


def _along_rays(scene: Scene, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    step, radius = scene.renderer.step, scene.geometry.radius
    begins = _outward_sections(scene, points, normals)
    mixed, light = torch.zeros_like(points), torch.ones_like(points[:, :1])
    for section in range(-OUTSIDE, max(1, round(radius / step))):
        alive = ((light[:, 0] > OPAQUE) & (section >= -begins)).nonzero()[:, 0]
        places = points[alive] - (section + 0.5) * step * normals[alive]
        inside = places.abs().amax(-1) <= radius
        alive, places = alive[inside], places[inside]
        if not len(alive):
            continue
        density, rgb = _look(scene, places)
        passed = torch.exp(-density * step)
        mixed[alive] += light[alive] * (1 - passed) * rgb
        light[alive] *= passed
    opacity = 1 - light
    colors, bare = mixed / opacity.clamp(min=CLEAR), opacity[:, 0] <= CLEAR
    colors[bare] = _look(scene, points[bare])[1]
    return colors


def _outward_sections(scene: Scene, points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Int[Tensor, "n"]:
    """How many sections outside of a point its surface reaches: as far as density falls. Beyond may be another part."""
    step, radius = scene.renderer.step, scene.geometry.radius
    count, falling = torch.zeros(len(points), dtype=torch.long, device=points.device), torch.ones_like(points[:, 0]) > 0
    before = scene.geometry.density(points)[:, 0]
    for section in range(OUTSIDE):
        places = points + (section + 0.5) * step * normals
        density = scene.geometry.density(places.clamp(-radius, radius))[:, 0]
        falling = falling & (density <= before) & (places.abs().amax(-1) <= radius)
        count, before = count + falling, density
    return count


def _look(scene: Scene, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 3"]]:
    """Density and base colour."""
    matter = scene.geometry(points, normals=False)
    return matter.density, scene.material.albedo(matter.features)


@torch.no_grad()
def _in_parts(paint: Callable[..., Tensor], scene: Scene, *inputs: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    device = next(scene.parameters()).device
    parts = zip(*(each.split(CHUNK) for each in inputs), strict=True)
    return torch.cat([paint(*(each.to(device) for each in part)).cpu() for part in parts])
