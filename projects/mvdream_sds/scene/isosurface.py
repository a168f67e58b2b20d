"""From a density to triangles, first roughly in the whole cube, then finely around what was found (threestudio)."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from core.config import number, one_of, whole
from core.errors import BadConfig, BadMesh
from core.mesh.clean import MeshReport, clean_mesh
from core.mesh.extract import extract_surface, sample_grid
from core.mesh.tetrahedra import TetGrid, kuhn_grid, marching_tetrahedra, read_tets
from core.types import Mesh

log = logging.getLogger(__name__)

Density = Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 1"]]
Box = Float[Tensor, "2 3"]
SOMETHING = 1e-5  # density of what `auto` takes into account
MARGIN = 0.1  # around what the first pass found, in parts of its extent


class Surface(NamedTuple):
    """What was found, and the density at which."""

    mesh: Mesh
    report: MeshReport
    threshold: float


class Isosurface:
    """How a scene's surface is found."""

    def __init__(
        self,
        *,
        method: Literal["mt", "mc"] = "mt",
        resolution: int = 128,
        threshold: float | Literal["auto"] = 25.0,
        coarse_to_fine: bool = True,
        min_component: float = 0.01,
        tets: str | None = None,
        chunk: int = 1 << 16,
    ) -> None:
        """
        Args:
            method: marching tetrahedra (`mt`) or marching cubes (`mc`).
            resolution: cells along an axis for `mt`, points for `mc`.
            threshold: density at the surface; `auto`: the mean of all that is above 1e-5 in the whole cube.
            min_component: pieces with less than this part of the largest one's area are taken away; 1 keeps that alone.
            tets: a file with a tetrahedral grid for `mt` (`tetrahedra.read_tets`), whose resolution then counts.
            chunk: points whose density is computed at once.
        """
        one_of("isosurface.method", method, ("mt", "mc"))
        whole("isosurface.resolution", resolution, least=2)
        whole("isosurface.chunk", chunk)
        number("isosurface.min_component", min_component, 0, 1)
        if threshold != "auto":
            number("threshold", threshold, 0, above=True)
        if tets is not None and method == "mc":
            raise BadConfig(f"isosurface.tets={tets}: marching cubes reads no tetrahedra; set isosurface.method=mt")
        self.method, self.resolution, self.threshold = method, resolution, threshold
        self.coarse_to_fine, self.min_component, self.chunk = coarse_to_fine, min_component, chunk
        self.grid: TetGrid | None = None
        if method == "mt":
            self.grid = kuhn_grid(resolution) if tets is None else read_tets(tets)

    @torch.no_grad()
    def __call__(self, density: Density, radius: float, *, device: torch.device | str = "cpu") -> Surface:
        """The cleaned surface of a density in [-radius, radius]^3, closed, facing outward, in world units.

        Raises:
            BadMesh: the density crosses the threshold nowhere, or is not finite.
        """
        cube = torch.tensor([[-radius] * 3, [radius] * 3])
        values = self._values(density, cube, device)
        threshold = self._level(values)
        mesh = self._surface(values, threshold, cube)
        if self.coarse_to_fine:
            low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
            margin = MARGIN * (high - low)
            box = torch.stack([torch.maximum(low - margin, cube[0]), torch.minimum(high + margin, cube[1])])
            mesh = self._surface(self._values(density, box, device), threshold, box)
        return Surface(*clean_mesh(mesh, min_component=self.min_component), threshold)

    def _level(self, values: Tensor) -> float:
        if self.threshold != "auto":
            return float(self.threshold)
        something = values[values > SOMETHING]
        if len(something) == 0:
            raise BadMesh(
                f"surface is empty: the density lies in [{values.min():.4g}, {values.max():.4g}], nowhere above "
                f"{SOMETHING:g}, so that threshold=auto finds nothing; train longer"
            )
        level = float(something.mean())
        log.info("threshold=auto: %.4g", level)
        return level

    def _values(self, density: Density, box: Box, device: torch.device | str) -> Tensor:
        """The density at the grid's points in a box: [r, r, r] for cubes, [n] for tetrahedra."""
        if self.grid is None:
            middle, half = box.mean(0).to(device), (box[1] - box[0]).to(device) / 2
            return sample_grid(
                lambda p: density(p * half + middle)[:, 0], self.resolution, 1.0, device=device, chunk=self.chunk
            )
        points = box[0] + self.grid.vertices * (box[1] - box[0])
        return torch.cat([density(part.to(device))[:, 0].cpu() for part in points.split(self.chunk)])

    def _surface(self, values: Tensor, threshold: float, box: Box) -> Mesh:
        low, high = values.min().item(), values.max().item()
        if not torch.isfinite(values).all():
            raise BadMesh("density has NaN or infinite values: the training diverged; take an earlier checkpoint")
        if not low < threshold < high:
            state = "full" if low >= threshold else "empty"
            raise BadMesh(
                f"surface is {state}: density lies in [{low:.4g}, {high:.4g}] and never crosses the threshold "
                f"{threshold:.4g}; train longer, or set threshold=seen"
            )
        if self.grid is None:
            mesh = extract_surface(values, level=threshold, bound=1.0, inside_is_below=False, what="density")
            return replace(mesh, vertices=(mesh.vertices + 1) / 2 * (box[1] - box[0]) + box[0])
        outward = threshold - values
        # What the cube cuts gets a wall there, as by marching cubes: outside of the grid nothing is.
        outward = torch.where(self.grid.border, outward.clamp(min=1e-3 * threshold), outward)
        points, faces = marching_tetrahedra(self.grid.vertices, outward, self.grid.tets)
        return Mesh(points * (box[1] - box[0]) + box[0], faces)
