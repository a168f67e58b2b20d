"""A camera's way around a fitted object, seen through the field itself or through its mesh."""

from typing import Literal, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from core.cameras.rays import pixel_rays
from core.cameras.rigs import rig
from core.config import number, whole
from core.images import composite
from core.render.raster import render_mesh
from core.types import Cameras, Mesh, Rays


@runtime_checkable
class Visible(Protocol):
    """A field that can be looked at."""

    def look(self, rays: Rays) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 1"]]: ...


class Turntable:
    """The settings of a turntable; call it with a field and its mesh. Defaults are SyncDreamer's video."""

    def __init__(
        self,
        *,
        num_frames: int = 180,
        size: int = 256,
        elevation_deg: float = 30.0,
        distance: float = 1.5,
        fps: int = 30,
        through: Literal["field", "mesh"] = "field",
    ) -> None:
        """Args: `through` the field (volume rendering: slow, soft) or the coloured mesh (rasterised: fast, crisp)."""
        whole("num_frames", num_frames)
        whole("size", size, least=16)  # smaller frames are more than some video encoders take
        whole("fps", fps)
        number("elevation_deg", elevation_deg, -90, 90)
        number("distance", distance, 0, above=True)
        self.num_frames, self.size, self.fps, self.through = num_frames, size, fps, through
        self.elevation_deg, self.distance = elevation_deg, distance

    @property
    def cameras(self) -> Cameras:
        return rig(
            "orbit",
            size=self.size,
            num_views=self.num_frames,
            elevation_deg=self.elevation_deg,
            distance=self.distance,
        )

    def __call__(self, field: Visible, mesh: Mesh, *, pixel_offset: float = 0.5) -> Float[Tensor, "frames 3 h w"]:
        """Frames over white, in [0, 1]."""
        cameras = self.cameras
        if self.through == "mesh":
            parts = [render_mesh(mesh, cameras[i : i + 1], shading="none") for i in range(self.num_frames)]
            return composite(torch.cat(parts))
        frames = [look_through(field, cameras[i], pixel_offset=pixel_offset) for i in range(self.num_frames)]
        return torch.stack(frames)


def look_through(
    field: Visible, camera: Cameras, *, pixel_offset: float = 0.5, chunk: int = 4096
) -> Float[Tensor, "3 h w"]:
    """One camera's volume rendering over white."""
    rays = pixel_rays(camera, offset=pixel_offset)
    device = next(field.parameters()).device if isinstance(field, torch.nn.Module) else "cpu"
    flat = Rays(rays.origins.reshape(-1, 3).to(device), rays.directions.reshape(-1, 3).to(device))
    colors = [field.look(flat[i : i + chunk])[0].cpu() for i in range(0, len(flat.origins), chunk)]
    return rearrange(torch.cat(colors), "(h w) c -> c h w", w=camera.width).clamp(0, 1)
