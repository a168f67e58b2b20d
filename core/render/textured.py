"""A textured mesh as a viewer shows it: every pixel looks its colour up in the texture. Unlit, as our files say."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from core.mesh.texture import TexturedMesh
from core.render.raster import averaged, interpolate, rasterize
from core.types import Cameras


def render_textured(
    textured: TexturedMesh, cameras: Cameras, *, supersample: int = 2
) -> Float[Tensor, "views 4 height width"]:
    """RGBA images in [0, 1] with straight alpha, one view after the other.

    Args:
        supersample: samples per pixel along a side; each is a bilinear look-up.
    """
    fine = cameras.scaled(cameras.width * supersample, cameras.height * supersample)
    views = []
    for view in range(len(cameras)):
        raster = rasterize(textured.mesh, fine[view : view + 1])
        rgb = looked_up(textured.texture, interpolate(textured.uv, textured.mesh, raster))
        views.append(averaged(rgb * raster.mask[..., None], raster, supersample))
    return torch.cat(views)


def looked_up(texture: Float[Tensor, "3 size size"], uv: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 3"]:
    """The texture's colours at `uv`, bilinearly; v counts from the bottom, and outside the border's texels go on."""
    grid = torch.stack([2 * uv[..., 0] - 1, 1 - 2 * uv[..., 1]], dim=-1).reshape(1, 1, -1, 2)
    found = F.grid_sample(texture[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].T.reshape(*uv.shape[:-1], 3)
