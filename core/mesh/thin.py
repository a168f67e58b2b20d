"""A coarser copy of a mesh: for a page or a small picture, where every face would be too many."""

import torch
from torch import Tensor

from core.errors import BadMesh
from core.types import Mesh


def thin(mesh: Mesh, max_faces: int) -> Mesh:
    """A coarser copy of a mesh with at most `max_faces` faces: vertices in one cell of a grid become their mean."""
    if len(mesh.faces) == 0 or not torch.isfinite(mesh.vertices).all():
        raise BadMesh(f"cannot show a mesh with {len(mesh.faces)} faces, or with NaN vertices")
    colors = None if mesh.colors is None else mesh.colors.detach().cpu()
    mesh = Mesh(mesh.vertices.detach().cpu(), mesh.faces.cpu(), colors)
    result, cells = mesh, 512
    low, side = mesh.vertices.amin(dim=0), (mesh.vertices.amax(dim=0) - mesh.vertices.amin(dim=0)).max()
    while len(result.faces) > max_faces:
        cell = ((mesh.vertices - low) / side.clamp(min=1e-9) * cells).floor().long()
        _, group, counts = torch.unique(cell, dim=0, return_inverse=True, return_counts=True)

        def mean(values: Tensor, group: Tensor = group, counts: Tensor = counts) -> Tensor:
            return values.new_zeros(len(counts), 3).index_add_(0, group, values) / counts[:, None]

        faces = group[mesh.faces]
        whole = (faces != faces.roll(1, dims=1)).all(dim=1)
        means = mean(mesh.vertices), None if mesh.colors is None else mean(mesh.colors)
        result, cells = Mesh(means[0], faces[whole], means[1]), cells * 3 // 4
    return result
