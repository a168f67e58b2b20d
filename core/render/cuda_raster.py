"""nvdiffrast behind `core.render.raster.rasterize`'s meaning: the nearest face at every pixel's centre, on a CUDA GPU.

nvdiffrast (Laine et al. 2020) wants vertices in OpenGL's clip space, in which its first row of pixels lies at y = -1.
Our rows count from above, so that y, like the pixel's row, grows downwards here, and nothing needs turning. Its
barycentrics are perspective-correct; depth is interpolated with them along the camera's axis, not read from its
z-buffer. Its licence is non-commercial. From version 0.3.3 on images may have any size.
"""

import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import BadRequest
from core.render.raster import NEAR, RasterOutput
from core.types import Cameras, Mesh

# Its z-buffer spans the depths that occur, and a little more, so that none of its resolution is lost.
MARGIN = 1.01


def require_nvdiffrast(who: str) -> None:
    """BadRequest where nvdiffrast cannot run; `who` is the setting that asks for it, as `engine=nvdiffrast`."""
    instead = f"use {who.rpartition('=')[0]}=cpu"
    if importlib.util.find_spec("nvdiffrast") is None:
        raise BadRequest(f"{who}: nvdiffrast is not installed (environment.yml has its line); {instead}")
    if not torch.cuda.is_available():
        raise BadRequest(f"{who}: nvdiffrast draws on a CUDA GPU, and torch finds none here; {instead}")


def rasterize_nvdiffrast(mesh: Mesh, cameras: Cameras, *, near: float = NEAR) -> RasterOutput:
    """`rasterize` by nvdiffrast; mesh and cameras stand on one CUDA device.

    Args:
        near: surfaces closer than this depth are not drawn.
    """
    import nvdiffrast.torch as dr

    clip = clip_space(mesh.vertices, cameras, near=near)
    context = _context(dr, mesh.vertices.device)
    drawn, _ = dr.rasterize(context, clip, mesh.faces.int(), resolution=[cameras.height, cameras.width], grad_db=False)
    return raster_output(drawn, mesh, clip[..., 3])


def clip_space(
    vertices: Float[Tensor, "num_vertices 3"], cameras: Cameras, *, near: float = NEAR
) -> Float[Tensor, "views num_vertices 4"]:
    """Homogeneous x, y, z, w, where w is depth along the camera's axis.

    x/w goes from -1 at the image's left edge to 1 at its right, y/w from -1 at its upper edge to 1 at its lower, z/w
    from -1 at the nearest depth that may be drawn to 1 behind the farthest vertex.
    """
    world_to_camera = cameras.world_to_camera.to(vertices)
    in_camera = torch.einsum("vij,nj->vni", world_to_camera[:, :3, :3], vertices) + world_to_camera[:, None, :3, 3]
    homogeneous = torch.einsum("vij,vnj->vni", cameras.intrinsics.to(vertices), in_camera)
    depth = homogeneous[..., 2]
    x, y = (2 * homogeneous[..., axis] / size - depth for axis, size in ((0, cameras.width), (1, cameras.height)))
    first = (depth.amin() / MARGIN).clamp(min=near)
    last = torch.maximum(depth.amax() * MARGIN, first * MARGIN)
    z = (depth * (last + first) - 2 * last * first) / (last - first)
    return torch.stack([x, y, z, depth], dim=-1)


def raster_output(
    drawn: Float[Tensor, "views height width 4"], mesh: Mesh, depths: Float[Tensor, "views num_vertices"]
) -> RasterOutput:
    """What nvdiffrast drew, as ours.

    Args:
        drawn: the weights of a face's first and second vertex, z/w, and the face's index + 1, 0 where nothing is seen.
        depths: of every vertex, along each camera's axis.
    """
    face_index = drawn[..., 3].long() - 1
    seen = face_index >= 0
    view = seen.nonzero()[:, 0]
    first, second = drawn[seen][:, 0], drawn[seen][:, 1]
    weights = torch.stack([first, second, 1 - first - second], dim=-1)
    barycentrics = drawn.new_zeros(*seen.shape, 3)
    barycentrics[seen] = weights
    depth = drawn.new_full(seen.shape, torch.inf)
    depth[seen] = (weights * depths[view[:, None], mesh.faces[face_index[seen]]]).sum(-1)
    return RasterOutput(face_index, barycentrics, depth)


_contexts: dict[torch.device, object] = {}  # one holds buffers that are dear to make again


def _context(dr, device: torch.device) -> object:
    if device not in _contexts:
        _contexts[device] = dr.RasterizeCudaContext(device=device)
    return _contexts[device]
