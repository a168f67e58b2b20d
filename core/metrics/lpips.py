"""LPIPS (Zhang et al. 2018): how far apart two images are in the features of a network that was trained on pictures.

Networks and weights: the convolutions of torchvision's AlexNet or VGG-16 under torchvision's names, so that its
published files load, and one linear layer per stage, which torchmetrics carries. torchvision itself is not needed.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.errors import BadImage
from core.metrics.images import Images, check_pair

Net = Literal["alex", "vgg"]
# Of torchvision's `features`: behind which layers the stages end.
STAGES = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}
# Widths of VGG-16's convolutions; None halves the image.
VGG = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
SMALLEST = 32  # pixels; a stage would have nothing left of smaller images
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the networks' input, for images in [-1, 1]


class Lpips(nn.Module):
    """Distance of images in [0, 1], one per pair; 0 for equal images.

    Args:
        backbone: torchvision's state dict of the network; the classifier's tensors are not used.
        heads: `lin<n>.model.1.weight` for each stage, as LPIPS is published.
    """

    def __init__(self, net: Net, *, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        self.features = features(net)
        kept = {key: value for key, value in backbone.items() if not key.startswith("classifier.")}
        self.load_state_dict({key: value.float() for key, value in kept.items()})
        self.weights = [heads[f"lin{n}.model.1.weight"].float() for n in range(len(STAGES[net]))]
        self.requires_grad_(False).eval()

    def forward(self, prediction: Images, target: Images) -> Float[Tensor, "..."]:
        check_pair(prediction, target)
        if min(prediction.shape[-2:]) < SMALLEST:
            raise BadImage(f"LPIPS: images {tuple(prediction.shape)} are too small, {SMALLEST} pixels are the least")
        flat = [images.detach().cpu().float().reshape(-1, *images.shape[-3:]) for images in (prediction, target)]
        scores = [self.distance(a[None], b[None]) for a, b in zip(*flat, strict=True)]
        return torch.cat(scores).double().view(prediction.shape[:-3])

    def distance(self, a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n"]:
        """Sum over stages of the mean over pixels of weighted squared differences of unit feature vectors (eq. 1)."""
        total = a.new_zeros(len(a))
        for one, other, weight in zip(self.stages(a), self.stages(b), self.weights, strict=True):
            difference = (_unit(one) - _unit(other)).square()
            total += nn.functional.conv2d(difference, weight).mean(dim=(1, 2, 3))
        return total

    def stages(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """The features at the end of each stage."""
        shift, scale = (images.new_tensor(value)[:, None, None] for value in (SHIFT, SCALE))
        x, found = (images * 2 - 1 - shift) / scale, []
        for start, end in pairwise((0, *STAGES[self.net])):
            x = self.features[start:end](x)
            found.append(x)
        return found


def features(net: Net) -> nn.Sequential:
    """The convolutional part of torchvision's network, layer by layer in its order, so that names agree."""
    return nn.Sequential(*(_alex() if net == "alex" else _vgg()))


def _alex() -> Sequence[nn.Module]:
    return [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    ]


def _vgg() -> Sequence[nn.Module]:
    layers: list[nn.Module] = []
    width = 3
    for next_width in VGG:
        if next_width is None:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, next_width, 3, padding=1), nn.ReLU()]
            width = next_width
    return layers


def _unit(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
