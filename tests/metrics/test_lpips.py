"""LPIPS with random weights: the arithmetic is torchmetrics' own. The published backbones are not here."""

import pytest
import torch
from torch import nn
from torchmetrics.functional.image import lpips as theirs

from core.errors import BadImage
from core.metrics.lpips import STAGES, Lpips, features


def weights(net: str, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    layers = features(net)
    backbone = {}
    for name, value in layers.state_dict().items():
        fan = value[0].numel() if value.ndim > 1 else 100
        backbone[f"features.{name}"] = torch.randn(value.shape, generator=g) * (2 / fan) ** 0.5
    widths = [module.out_channels for end in STAGES[net] for module in [last_convolution(layers[:end])]]
    heads = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1, generator=g) for n, width in enumerate(widths)}
    return backbone, heads


def last_convolution(layers: nn.Sequential) -> nn.Conv2d:
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1]


def images(seed: int, size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("net", STAGES)
def test_the_distance_is_torchmetrics_own_for_the_same_weights(net, monkeypatch):
    backbone, heads = weights(net)
    ours = Lpips(net, backbone=backbone, heads=heads)
    copy = features(net)
    copy.load_state_dict({name.removeprefix("features."): value for name, value in backbone.items()})
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda name, pretrained=False: copy)
    reference = theirs._NoTrainLpips(pretrained=False, net=net)
    reference.load_state_dict(heads, strict=False)
    a, b = images(0), images(1)
    expected = reference(a, b, normalize=True).flatten().double()
    torch.testing.assert_close(ours(a, b), expected, atol=1e-6, rtol=1e-5)
    assert (expected > 0.01).all()


def test_the_heads_that_torchmetrics_carries_fit_and_equal_images_are_at_distance_0():
    from projects.benchmark.networks import published_heads

    net = Lpips("alex", backbone=weights("alex")[0], heads=published_heads("alex"))
    a = images(0)
    assert net(a, a).tolist() == [0, 0]
    small, large = (net((a + s * images(1)).clamp(0, 1), a) for s in (0.05, 0.5))
    assert (small < large).all() and (small > 0).all()


def test_a_network_with_other_names_or_shapes_and_images_that_do_not_fit_are_refused():
    backbone, heads = weights("alex")
    with pytest.raises(RuntimeError, match="features"):
        Lpips("vgg", backbone=backbone, heads=heads)
    net = Lpips("alex", backbone=backbone | {"classifier.1.weight": torch.zeros(2)}, heads=heads)
    with pytest.raises(BadImage, match="different shapes"):
        net(images(0), images(0, 32))
    with pytest.raises(BadImage, match="too small"):
        net(images(0, 16), images(1, 16))
