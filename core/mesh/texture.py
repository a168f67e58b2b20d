"""A base-colour texture for a coloured surface: unwrap with xatlas, then colour every texel.

Texture coordinates count from the lower left corner; the texture's first row is the top (v = 1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from core.errors import BadMesh
from core.mesh.unwrapping import unwrap
from core.render.raster import rasterize, vertex_normals
from core.types import Cameras, Mesh


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh whose vertices are split along the seams of its unwrapping, and its texture in sRGB."""

    mesh: Mesh
    uv: Float[Tensor, "num_vertices 2"]
    texture: Float[Tensor, "3 size size"]


def bake_texture(
    mesh: Mesh,
    *,
    size: int = 1024,
    color_at: Callable[[Float[Tensor, "n 3"], Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None = None,
    padding: int = 2,
) -> TexturedMesh:
    """Unwrap `mesh` and fill a `size` x `size` texture.

    Args:
        color_at: colour of surface points, given with their unit normals (outwards, smooth over the surface); without
            it the vertex colours are interpolated.
        padding: texels between charts. All uncovered texels take the nearest covered one's colour.
    """
    if color_at is None and mesh.colors is None:
        raise BadMesh("cannot bake a texture: the mesh has no vertex colours and no color_at was given")
    cut = unwrap(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy(), size=size, padding=padding)
    origin, faces, uv = (torch.from_numpy(array) for array in cut)
    colors = None if mesh.colors is None else mesh.colors.cpu()[origin]
    split = Mesh(mesh.vertices.cpu()[origin], faces, colors)
    covered, texel_face, weights = _texels(uv, faces, size)
    corners = faces[texel_face]
    if color_at is not None:
        normals = vertex_normals(mesh).cpu()[origin]
        points, normals = ((weights[..., None] * each[corners]).sum(1) for each in (split.vertices, normals))
        filled = color_at(points, F.normalize(normals, dim=-1))
    else:
        assert split.colors is not None
        filled = (weights[..., None] * split.colors[corners]).sum(1)
    texture = torch.zeros(size, size, 3)
    texture[covered] = filled.cpu().float()
    nearest = distance_transform_edt(~covered.numpy(), return_distances=False, return_indices=True)
    texture = texture[tuple(torch.from_numpy(index).long() for index in nearest)]
    return TexturedMesh(split, uv, rearrange(texture, "h w c -> c h w"))


def _texels(uv: Float[Tensor, "n 2"], faces: Tensor, size: int) -> tuple[Tensor, Tensor, Float[Tensor, "texels 3"]]:
    """Which texels [size, size] lie in a chart, and for those the face and its barycentric weights.

    The unwrapped surface is looked at by a camera whose pixels are the texels.
    """
    plane = torch.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, torch.ones_like(uv[:, 0])], dim=-1)
    camera = Cameras(torch.eye(4)[None], torch.eye(3)[None], size, size)
    raster = rasterize(Mesh(plane, faces), camera)
    covered = raster.mask[0]
    return covered, raster.face_index[0][covered], raster.barycentrics[0][covered]
