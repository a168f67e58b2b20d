from dataclasses import replace

import pytest
import torch
import trimesh

from core.cameras.rigs import rig
from core.metrics.consistency import consistency
from core.render.raster import render_mesh
from core.types import Mesh
from core.views import ViewSet


def toy(size: int) -> ViewSet:
    """A red box with a green ball beside it and a blue one on top, rendered from the 16 cameras."""
    parts = [
        trimesh.creation.box((0.5, 0.3, 0.3)),
        trimesh.creation.icosphere(2, 0.15).apply_translation((0.2, 0.3, 0)),
        trimesh.creation.icosphere(2, 0.12).apply_translation((-0.1, 0, 0.25)),
    ]
    colours = [torch.eye(3)[index].expand(len(part.vertices), 3) for index, part in enumerate(parts)]
    whole = trimesh.util.concatenate(parts)
    mesh = Mesh(torch.tensor(whole.vertices).float(), torch.tensor(whole.faces), torch.cat(colours))
    cameras = rig("syncdreamer", size=size)
    return ViewSet(render_mesh(mesh, cameras, shading="flat"), cameras, "toy")


@pytest.fixture(scope="module")
def views():
    return toy(64)


def disturbed(views: ViewSet, how: str, seed: int = 0) -> ViewSet:
    g = torch.Generator().manual_seed(seed)
    images = views.images.clone()
    if how == "shuffled":
        images = images[torch.randperm(16, generator=g)]
    elif how == "reversed":
        images = images.flip(0)
    elif how == "shifted":
        images = torch.stack([i.roll(tuple(torch.randint(-4, 5, (2,), generator=g).tolist()), (1, 2)) for i in images])
    elif how == "tinted":
        images[:, :3] = (images[:, :3] + torch.rand(16, 3, 1, 1, generator=g) - 0.5).clamp(0, 1)
    elif how == "mirrored":
        chosen = torch.rand(16, generator=g) < 0.5
        images[chosen] = images[chosen].flip(-1)
    elif how == "one view exchanged":
        images[5] = images[13]
    return replace(views, images=images)


HOWS = ["shuffled", "reversed", "shifted", "tinted", "mirrored", "one view exchanged"]


@pytest.fixture(scope="module")
def true(views):
    return consistency(views)


@pytest.mark.parametrize("how", HOWS)
def test_true_renderings_score_higher_than_disturbed_ones(views, true, how):
    false = consistency(disturbed(views, how))
    assert true.score > 0.9 and true.score > false.score + 0.01, (true, false)


@pytest.mark.slow
def test_a_small_disturbance_costs_less_than_a_large_one(views):
    g = torch.Generator().manual_seed(0)
    tints = torch.rand(16, 3, 1, 1, generator=g) - 0.5
    scores = []
    for strength in (0.0, 0.1, 0.5):
        rgb = (views.images[:, :3] + strength * tints).clamp(0, 1)
        scores.append(consistency(replace(views, images=torch.cat([rgb, views.images[:, 3:]], dim=1))).score)
    assert scores == sorted(scores, reverse=True)


def test_the_score_hardly_depends_on_the_image_size(true):
    assert consistency(toy(128)).score == pytest.approx(true.score, abs=0.02)


@pytest.mark.slow
def test_views_of_nothing_score_zero_and_the_result_repeats(views, true):
    assert consistency(replace(views, images=views.images * 0)).score == 0
    assert consistency(views) == true
