"""A radiance field in the manner of instant-ngp (Müller et al. 2022), with SyncDreamer's constants."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.fields.encodings import spherical_harmonics
from core.fields.hashgrid import HashGrid


class NGPField(nn.Module):
    """Point -> density and features (hash grid, one small MLP); features and direction -> colour (another)."""

    def __init__(
        self,
        *,
        grid: HashGrid,
        bound: float = 0.6,
        hidden_dim: int = 64,
        feature_dim: int = 15,
        color_hidden_dim: int = 64,
        sh_degree: int = 4,
        blob_radius: float = 0.25,
        blob_scale: float = 10.0,
        density_scale: float = 10.0,
    ) -> None:
        """
        Args:
            bound: the grid spans the cube [-bound, bound]^3.
            blob_radius, blob_scale: training starts from a soft ball: blob_scale * (1 - |x| / blob_radius) is added
                before the softplus.
        """
        super().__init__()
        self.grid, self.bound, self.sh_degree = grid, bound, sh_degree
        self.blob_radius, self.blob_scale, self.density_scale = blob_radius, blob_scale, density_scale
        self.density_net = nn.Sequential(
            nn.Linear(grid.out_dim, hidden_dim, bias=False),
            nn.ReLU(),
            nn.Linear(hidden_dim, 1 + feature_dim, bias=False),
        )
        self.color_net = nn.Sequential(
            nn.Linear(sh_degree**2 + feature_dim, color_hidden_dim, bias=False),
            nn.ReLU(),
            nn.Linear(color_hidden_dim, color_hidden_dim, bias=False),
            nn.ReLU(),
            nn.Linear(color_hidden_dim, 3, bias=False),
        )

    def density(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n features"]]:
        """Density per unit length, and features for the colour."""
        hidden = self.density_net(self.grid((points + self.bound) / (2 * self.bound)))
        blob = self.blob_scale * (1 - points.norm(dim=-1) / self.blob_radius)
        # Quirk: upstream's scale of the initial blob is also its renderer's multiplier of the density.
        return F.softplus(hidden[:, 0] + blob) * self.density_scale, hidden[:, 1:]

    def color(self, directions: Float[Tensor, "n 3"], features: Float[Tensor, "n features"]) -> Float[Tensor, "n 3"]:
        """Colour in [0, 1] along unit `directions` (from the eye to the point)."""
        bands = spherical_harmonics(directions, self.sh_degree)
        return torch.sigmoid(self.color_net(torch.cat([bands, features], dim=-1)))
