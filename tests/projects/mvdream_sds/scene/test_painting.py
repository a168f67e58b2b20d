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
SIGMA, SKIN = 5.0, 0.2


class Slab(ImplicitVolume):
    """Even matter below z = 0: red down to a depth of `SKIN`, blue beneath; nothing above."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.radius, self.normal_type = 1.0, None
        self.place = nn.Parameter(torch.zeros(()))

    def forward(self, points, *, normals=None):
        z = points[:, 2:]
        return Matter(SIGMA * (z < 0).float(), torch.where(z > -SKIN, RED, BLUE).logit(), None)


@pytest.fixture(scope="module")
def slab() -> Scene:
    renderer = VolumeRenderer(occupancy=SceneOccupancy(bound=1.0, resolution=4), num_samples_per_ray=1732)
    return Scene(geometry=Slab(), material=NoMaterial(), background=SolidBackground(), renderer=renderer)


def test_what_is_seen_is_the_mixture_of_the_volume_rendering_integral(slab):
    points, up = torch.tensor([[0.0, 0.0, 0.0], [0.3, -0.2, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    skin, whole = 1 - math.exp(-SIGMA * SKIN), 1 - math.exp(-SIGMA * 1.0)
    expected = (skin * RED + (whole - skin) * BLUE) / whole
    torch.testing.assert_close(seen(slab, points, up), expected.expand(2, 3), atol=5e-3, rtol=0)
    torch.testing.assert_close(at_surface(slab, points - 1e-4, up), RED.expand(2, 3), atol=1e-6, rtol=0)


def test_a_ray_that_meets_nothing_has_the_colour_of_its_point(slab):
    points, outward = torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[0.0, 0.0, -1.0]])  # looks up, away from the slab
    torch.testing.assert_close(seen(slab, points, outward), RED[None], atol=1e-6, rtol=0)
