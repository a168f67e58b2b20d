"""Where matter is: a density and colour features in a cube, on a hash grid (threestudio's implicit volume).

World: z up, the object in [-radius, radius]^3. Normals point outward, against the density's gradient.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.config import number, one_of, whole
from core.fields.hashgrid import HashGrid, ProgressiveBandHashGrid
from projects.mvdream_sds.scene.networks import activation, mlp, safe_norm, safe_normalize

BIASES = ("blob_magic3d", "blob_dreamfusion")
NORMALS = ("analytic", "finite_difference", "finite_difference_laplacian", "pred")


@dataclass(frozen=True)
class Matter:
    """The field at n points. `features` have no activation yet; `normal` is None where no one asked."""

    density: Float[Tensor, "n 1"]
    features: Float[Tensor, "n features"]
    normal: Float[Tensor, "n 3"] | None


class ImplicitVolume(nn.Module):
    """Point -> hash grid -> two networks without biases: one for density, one for colour features."""

    def __init__(
        self,
        *,
        encoding: HashGrid | ProgressiveBandHashGrid,
        radius: float = 1.0,
        feature_dim: int = 3,
        hidden_dim: int = 64,
        num_hidden: int = 1,
        density_activation: str = "softplus",
        density_bias: float | str = "blob_magic3d",
        blob_scale: float = 10.0,
        blob_std: float = 0.5,
        normal_type: Literal["analytic", "finite_difference", "finite_difference_laplacian", "pred"] | None = None,
        finite_difference_eps: float = 0.01,
        inward_finite_difference: bool = False,
    ) -> None:
        """
        Args:
            density_bias: added before the activation: a number, or a blob around the origin from which to start:
                blob_scale (1 - |x| / blob_std) (`blob_magic3d`; Lin et al. 2023) or
                blob_scale exp(-|x|^2 / (2 blob_std^2)) (`blob_dreamfusion`; Poole et al. 2022, appendix A.2).
            normal_type: how normals are found; None for a field without any. `analytic` differentiates the field, so
                that losses on normals reach the table through second derivatives; `finite_difference` looks
                finite_difference_eps ahead along the axes, `..._laplacian` both ways; `pred` is a third network.
            inward_finite_difference: the published sign.
        """
        super().__init__()
        for name, value in {"radius": radius, "finite_difference_eps": finite_difference_eps}.items():
            number(name, value, 0, above=True)
        number("blob_scale", blob_scale)
        number("blob_std", blob_std, 0, above=True)
        whole("feature_dim", feature_dim)
        whole("hidden_dim", hidden_dim)
        whole("num_hidden", num_hidden)
        if isinstance(density_bias, str):
            one_of("density_bias", density_bias, BIASES)
        if normal_type is not None:
            one_of("normal_type", normal_type, NORMALS)
        self.encoding, self.radius, self.normal_type = encoding, radius, normal_type
        self.feature_dim = feature_dim
        self.density_bias, self.blob_scale, self.blob_std = density_bias, blob_scale, blob_std
        self.finite_difference_eps = finite_difference_eps
        self.inward_finite_difference = inward_finite_difference
        self.activate = activation(density_activation)
        widths = {"hidden_dim": hidden_dim, "num_hidden": num_hidden}
        self.density_network = mlp(encoding.out_dim, 1, **widths)
        self.feature_network = mlp(encoding.out_dim, feature_dim, **widths)
        if normal_type == "pred":
            self.normal_network = mlp(encoding.out_dim, 3, **widths)

    def update_step(self, step: int) -> None:
        """What changes with the training step: the levels of a progressive grid."""
        if isinstance(self.encoding, ProgressiveBandHashGrid):
            self.encoding.update_step(step)

    def density(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"]:
        """Density per unit length at world points."""
        return self._density(points, self._encode(points))

    def bias(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 1"] | float:
        """What the density has before its activation besides the network's output."""
        if self.density_bias == "blob_magic3d":
            # NaN would be the gradient of a plain |x| at exactly 0, and one such point would end a run.
            return self.blob_scale * (1 - safe_norm(points) / self.blob_std)[..., None]
        if self.density_bias == "blob_dreamfusion":
            squared = points.square().sum(-1, keepdim=True)
            return self.blob_scale * torch.exp(-0.5 * squared / self.blob_std**2)
        return float(self.density_bias)

    def forward(self, points: Float[Tensor, "n 3"], *, normals: bool | None = None) -> Matter:
        """The field at world points.

        Args:
            normals: whether to find normals; None: if the field has any.
        """
        wanted = self.normal_type is not None if normals is None else normals
        if wanted and self.normal_type is None:
            raise ValueError("normals were asked for, but scene.geometry.normal_type is null; set one")
        if wanted and self.normal_type == "analytic":
            return self._with_analytic_normal(points)
        encoded = self._encode(points)
        density, features = self._density(points, encoded), self.feature_network(encoded)
        if not wanted:
            return Matter(density, features, None)
        if self.normal_type == "pred":
            return Matter(density, features, safe_normalize(self.normal_network(encoded)))
        return Matter(density, features, safe_normalize(-self._finite_difference(points, density)))

    def _encode(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch features"]:
        return self.encoding((points + self.radius) / (2 * self.radius))

    def _density(
        self, points: Float[Tensor, "*batch 3"], encoded: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*batch 1"]:
        return self.activate(self.density_network(encoded) + self.bias(points))

    def _with_analytic_normal(self, points: Float[Tensor, "n 3"]) -> Matter:
        """Normals that losses can differentiate again while gradients are enabled."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_(True)
            encoded = self._encode(points)
            density, features = self._density(points, encoded), self.feature_network(encoded)
            (gradient,) = torch.autograd.grad(density.sum(), points, create_graph=differentiable)
        normal = safe_normalize(-gradient)
        return (
            Matter(density, features, normal) if differentiable else Matter(density.detach(), features.detach(), normal)
        )

    def _finite_difference(self, points: Float[Tensor, "n 3"], density: Float[Tensor, "n 1"]) -> Float[Tensor, "n 3"]:
        """The density's gradient from its values close by; points are kept in the cube."""
        eps = self.finite_difference_eps
        steps = eps * torch.eye(3, dtype=points.dtype, device=points.device)
        if self.normal_type == "finite_difference_laplacian":
            ahead, behind = (self._at(points[:, None] + sign * steps) for sign in (1, -1))
            return 0.5 * (ahead - behind) / eps
        difference = (self._at(points[:, None] + steps) - density) / eps
        # Quirk: upstream leaves out the minus that turns a gradient into an outward normal.
        return -difference if self.inward_finite_difference else difference

    def _at(self, points: Float[Tensor, "n axes 3"]) -> Float[Tensor, "n axes"]:
        return self.density(points.clamp(-self.radius, self.radius))[..., 0]
