"""A signed distance with features, and the colour of its surface (NeuS, Wang et al. 2021; constants as in SyncDreamer).

Distances are positive outside. Gradients point outward and have length 1 where the field is a true distance.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from core.fields.encodings import Frequencies


class SDFNetwork(nn.Module):
    """Point -> distance and features; an MLP that starts as a sphere (geometric initialisation, Gropp et al. 2020)."""

    def __init__(
        self,
        *,
        feature_dim: int = 256,
        hidden_dim: int = 256,
        num_layers: int = 8,
        skip_layers: tuple[int, ...] | list[int] = (4,),
        num_frequencies: int = 6,
        radius: float = 0.5,
        scale: float = 1.0,
        beta: float = 100.0,
    ) -> None:
        """
        Args:
            num_layers: hidden layers; one more produces the output.
            skip_layers: indices of layers that see the encoded point again.
            radius: of the initial sphere.
            scale: the network works on `scale * point` and its distance is divided by `scale`.
            beta: sharpness of the softplus between layers.
        """
        super().__init__()
        self.skip_layers, self.scale, self.beta = tuple(skip_layers), scale, beta
        self.encode = Frequencies(in_dim=3, num_frequencies=num_frequencies)
        encoded = self.encode.out_dim
        widths = [encoded] + [hidden_dim] * num_layers + [1 + feature_dim]
        self.layers = nn.ModuleList()
        for i, (fan_in, width) in enumerate(pairwise(widths)):
            fan_out = width - encoded if i + 1 in self.skip_layers else width  # the skip brings the width back
            layer = nn.Linear(fan_in, fan_out)
            self._initialise(layer, i, last=i == num_layers, encoded=encoded, radius=radius)
            self.layers.append(weight_norm(layer))

    def _initialise(self, layer: nn.Linear, index: int, *, last: bool, encoded: int, radius: float) -> None:
        if last:
            nn.init.normal_(layer.weight, mean=math.sqrt(math.pi / layer.in_features), std=1e-4)
            nn.init.constant_(layer.bias, -radius)
            return
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.out_features))
        nn.init.zeros_(layer.bias)
        if index == 0:  # only the raw coordinates act at first, not their frequencies
            nn.init.zeros_(layer.weight[:, 3:])
        elif index in self.skip_layers:
            nn.init.zeros_(layer.weight[:, -(encoded - 3) :])

    def forward(
        self, points: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"]]:
        """Signed distance and features at `points`."""
        encoded = self.encode(points * self.scale)
        x = encoded
        for i, layer in enumerate(self.layers):
            if i in self.skip_layers:
                x = torch.cat([x, encoded], dim=-1) / math.sqrt(2)
            x = layer(x)
            if i + 1 < len(self.layers):
                x = F.softplus(x, beta=self.beta)
        return x[..., :1] / self.scale, x[..., 1:]

    def with_gradient(
        self, points: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch features"], Float[Tensor, "*batch 3"]]:
        """Distance, features and the distance's spatial gradient, itself differentiable while gradients are enabled."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_(True)
            distance, features = self(points)
            (gradient,) = torch.autograd.grad(distance.sum(), points, create_graph=differentiable)
        return (distance, features, gradient) if differentiable else (distance.detach(), features.detach(), gradient)


class SurfaceColor(nn.Module):
    """Colour in [0, 1] of a surface point from its position, normal, features and the reflected view direction."""

    def __init__(
        self,
        *,
        feature_dim: int = 256,
        hidden_dim: int = 256,
        num_layers: int = 4,
        num_frequencies: int = 4,
        num_point_frequencies: int = 0,
    ) -> None:
        """
        Args:
            num_frequencies: of the reflected direction.
            num_point_frequencies: of the point itself; small networks need some to paint details in few steps.
        """
        super().__init__()
        self.encode = Frequencies(in_dim=3, num_frequencies=num_frequencies)
        self.encode_point = Frequencies(in_dim=3, num_frequencies=num_point_frequencies)
        widths = [self.encode_point.out_dim + self.encode.out_dim + 3 + feature_dim] + [hidden_dim] * num_layers + [3]
        self.layers = nn.ModuleList(weight_norm(nn.Linear(fan_in, fan_out)) for fan_in, fan_out in pairwise(widths))

    def forward(
        self,
        points: Float[Tensor, "*batch 3"],
        gradients: Float[Tensor, "*batch 3"],
        to_camera: Float[Tensor, "*batch 3"],
        features: Float[Tensor, "*batch features"],
    ) -> Float[Tensor, "*batch 3"]:
        """Args: `to_camera` runs from the point to the eye, with unit length; `gradients` need not have it."""
        normals = F.normalize(gradients, dim=-1)
        reflected = 2 * (to_camera * normals).sum(-1, keepdim=True) * normals - to_camera
        x = torch.cat([self.encode_point(points), self.encode(reflected), normals, features], dim=-1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return torch.sigmoid(self.layers[-1](x))
