"""Depth and normal maps beside a view set's images.

depth/000.png     16 bits, gray: depth along the optical axis in units of `depth_unit_scale_factor` (transforms.json;
                  0.001 is what nerfstudio assumes), 0 where nothing is seen. `depth_file_path` names it, and
                  nerfstudio reads it so (another unit: its option `depth-unit-scale-factor`)
normals/000.png   8 bits, RGB: (n + 1) / 2 of the unit normal in OpenGL camera axes (x right, y up, z towards the
                  camera), so that `transform_matrix[:3, :3] @ n` is the normal in the world; 0 where nothing is
                  seen. `normal_file_path` names it. nerfstudio itself reads no normal maps
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.errors import BadRequest, BadViewSet
from core.images import to_pil
from core.views import TRANSFORMS
from data_tools.render.engines import Rendering

DEPTH, NORMALS, DEPTH_UNIT = "depth_file_path", "normal_file_path", "depth_unit_scale_factor"


def add_maps(folder: Path, rendering: Rendering, *, depth_unit: float, more: Mapping[str, Any]) -> None:
    """Put the rendering's maps into a view set folder that is being made, and name them in its transforms.json.

    Args:
        more: what transforms.json is to say beside its own keys.
    """
    transforms = json.loads((folder / TRANSFORMS).read_text(encoding="utf-8", errors="surrogatepass"))
    transforms |= more
    if rendering.depth is not None:
        transforms[DEPTH_UNIT] = depth_unit
        levels = (rendering.depth.double() / depth_unit).round().numpy()
        if levels.max() > 65535:
            raise BadRequest(
                f"depth {rendering.depth.max():g} needs more than 16 bits; raise depth_unit={depth_unit:g}"
            )
        _write(folder, transforms, DEPTH, "depth", [Image.fromarray(level.astype(np.uint16)) for level in levels])
    if rendering.normals is not None:
        seen = rendering.normals.abs().sum(1, keepdim=True) > 0
        coded = torch.where(seen, rendering.normals / 2 + 0.5, 0.0)
        _write(folder, transforms, NORMALS, "normals", [to_pil(picture) for picture in coded])
    text = json.dumps(transforms, indent=2, ensure_ascii=False)
    (folder / TRANSFORMS).write_text(text + "\n", encoding="utf-8", errors="surrogatepass")


def read_depth(folder: Path) -> Float[Tensor, "num_views height width"]:
    """The depth maps of a view set; 0 where nothing is seen."""
    pictures, transforms = _read(folder, DEPTH)
    return torch.stack([torch.from_numpy(p.astype(np.float64)) for p in pictures]).float() * transforms[DEPTH_UNIT]


def read_normals(folder: Path) -> Float[Tensor, "num_views 3 height width"]:
    """The normal maps of a view set, unit vectors in OpenGL camera axes; 0 where nothing is seen."""
    coded = rearrange(torch.from_numpy(np.stack(_read(folder, NORMALS)[0])).float(), "v h w c -> v c h w") / 255
    seen = coded.sum(1, keepdim=True) > 0
    return torch.where(seen, torch.nn.functional.normalize(coded * 2 - 1, dim=1), 0.0)


def _write(folder: Path, transforms: dict, key: str, name: str, pictures: list[Image.Image]) -> None:
    (folder / name).mkdir()
    for index, (frame, picture) in enumerate(zip(transforms["frames"], pictures, strict=True)):
        frame[key] = f"{name}/{index:03d}.png"
        picture.save(folder / frame[key])


def _read(folder: Path, key: str) -> tuple[list[np.ndarray], dict]:
    transforms = json.loads((folder / TRANSFORMS).read_text(encoding="utf-8", errors="surrogatepass"))
    frames = transforms["frames"]
    if any(key not in frame for frame in frames):
        raise BadViewSet(f"view set {str(folder)!r} has no maps ({key!r} in {TRANSFORMS}); render them")
    return [np.array(Image.open(folder / frame[key])) for frame in frames], transforms
