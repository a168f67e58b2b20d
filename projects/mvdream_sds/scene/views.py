"""A scene as cameras see it, outside of training: nothing is drawn, nothing is kept for gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.cameras.rays import pixel_rays
from core.modes import evaluated
from core.types import Cameras
from projects.mvdream_sds.scene.networks import full_precision
from projects.mvdream_sds.scene.scene import Scene


@dataclass(frozen=True)
class Seen:
    """Pictures of some views, on the CPU. `normal` is (n + 1) / 2 times the opacity; `behind` is the background."""

    rgba: Float[Tensor, "views 4 height width"]
    behind: Float[Tensor, "views 3 height width"]
    normal: Float[Tensor, "views 3 height width"] | None

    @property
    def opacity(self) -> Float[Tensor, "views 1 height width"]:
        return self.rgba[:, 3:]

    @property
    def over_behind(self) -> Float[Tensor, "views 3 height width"]:
        """The object over the scene's own background."""
        return self.rgba[:, :3] * self.opacity + self.behind * (1 - self.opacity)


def see(scene: Scene, cameras: Cameras, *, step: int = 0, normals: bool = False) -> Seen:
    """What cameras see at training step `step`, one after the other.

    Args:
        normals: whether they are shown; a field that finds none of its own is differentiated.
    """
    return joined([_see_one(scene, cameras[view : view + 1], step, normals) for view in range(len(cameras))])


def joined(parts: Sequence[Seen]) -> Seen:
    """Views that were seen apart."""
    normal = [part.normal for part in parts if part.normal is not None]
    return Seen(
        torch.cat([part.rgba for part in parts]),
        torch.cat([part.behind for part in parts]),
        torch.cat(normal) if normal else None,
    )


@torch.no_grad()
def _see_one(scene: Scene, camera: Cameras, step: int, normals: bool) -> Seen:
    camera = camera.to(next(scene.parameters()).device)
    wanted = scene.material.needs_normal or normals
    with evaluated(scene), _with_normals(scene), full_precision(camera.poses.device):
        seen = scene(pixel_rays(camera), camera.centers, step=step, normals=wanted)
    premultiplied, opacity, behind = (_picture(values) for values in (seen.foreground, seen.opacity, seen.background))
    rgba = torch.cat([(premultiplied / opacity.clamp(min=1e-6)).clamp(0, 1), opacity.clamp(0, 1)], dim=1)
    return Seen(rgba, behind, None if seen.normal is None else _picture(seen.normal))


def _picture(values: Tensor) -> Tensor:
    return rearrange(values, "v h w c -> v c h w").float().cpu()


@contextmanager
def _with_normals(scene: Scene) -> Iterator[None]:
    own = scene.geometry.normal_type
    scene.geometry.normal_type = own or "analytic"
    try:
        yield
    finally:
        scene.geometry.normal_type = own
