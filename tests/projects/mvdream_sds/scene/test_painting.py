"""A mesh's colours: those of the point, or those that a ray sees."""

import math

import pytest
import torch
from torch import nn

from projects.mvdream_sds.scene.background import SolidBackground
from projects.mvdream_sds.scene.geometry import ImplicitVolume, Matter
from projects.mvdream_sds.scene.materials import NoMaterial
from projects.mvdream_sds.scene.occupancy import SceneOccupancy
from projects.mvdream_sds.scene.painting import at_surface, seen
from projects.mvdream_sds.scene.renderer import VolumeRenderer
from projects.mvdream_sds.scene.scene import Scene

RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9])
SIGMA, SKIN, GAP = 5.0, 0.2, 0.03


class Slab(ImplicitVolume):
    """Even matter below z = 0: red down to a depth of `SKIN`, blue beneath; nothing above."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.radius, self.normal_type = 1.0, None
        self.place = nn.Parameter(torch.zeros(()))

    def density(self, points):
        return SIGMA * (points[:, 2:] < 0).float()

    def forward(self, points, *, normals=None):
        return Matter(self.density(points), torch.where(points[:, 2:] > -SKIN, RED, BLUE).logit(), None)


class Sandwich(Slab):
    """A dense blue slab, and close above it a dense red one."""

    def density(self, points):
        z = points[:, 2:]
        return 200.0 * ((z < 0) | ((z > GAP) & (z < 0.5))).float()

    def forward(self, points, *, normals=None):
        return Matter(self.density(points), torch.where(points[:, 2:] > GAP / 2, RED, BLUE).logit(), None)


def scene_of(geometry: Slab, num_samples_per_ray: int) -> Scene:
    occupancy = SceneOccupancy(bound=1.0, resolution=4)
    renderer = VolumeRenderer(occupancy=occupancy, num_samples_per_ray=num_samples_per_ray)
    return Scene(geometry=geometry, material=NoMaterial(), background=SolidBackground(), renderer=renderer)


@pytest.fixture(scope="module")
def slab() -> Scene:
    return scene_of(Slab(), 1732)


def test_what_is_seen_is_the_mixture_of_the_volume_rendering_integral(slab):
    points, up = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.2, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    skin, whole = 1 - math.exp(-SIGMA * SKIN), 1 - math.exp(-SIGMA * 1.0)
    expected = (skin * RED + (whole - skin) * BLUE) / whole
    torch.testing.assert_close(seen(slab, points, up), expected.expand(2, 3), atol=5e-3, rtol=0)
    torch.testing.assert_close(at_surface(slab, points - 1e-4, up), RED.expand(2, 3), atol=1e-6, rtol=0)


def test_a_ray_that_meets_nothing_has_the_colour_of_its_point(slab):
    points, outward = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, -1.0]])  # looks up, away from the slab
    torch.testing.assert_close(seen(slab, points, outward), RED[None], atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_samples_per_ray", [96, 512])  # sections longer than the gap, and shorter
def test_a_neighbour_beyond_a_gap_lends_no_colour(num_samples_per_ray):
    points, up = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    found = seen(scene_of(Sandwich(), num_samples_per_ray), points, up)
    torch.testing.assert_close(found, BLUE[None], atol=2e-2, rtol=0)


def test_beyond_the_cube_there_is_nothing(slab):
    points, inward = (
        torch.tensor([[0.0, 0.0, -1.0]]),
        torch.tensor([[0.0, 0.0, -1.0]]),
    )  # on the bottom face, from below
    whole, core = 1 - math.exp(-SIGMA * 1.0), 1 - math.exp(-SIGMA * (1.0 - SKIN))
    expected = (core * BLUE + (whole - core) * RED) / whole
    torch.testing.assert_close(seen(slab, points, inward), expected[None], atol=1e-2, rtol=0)
