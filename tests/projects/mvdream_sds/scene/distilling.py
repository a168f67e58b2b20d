"""Short runs of score distillation: the toybox's settings with networks of a few thousand weights."""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from core.compose import composed
from core.config import plain
from core.images import composite
from core.mesh.place import sphere
from core.models.latents import Latents
from core.program import Program
from core.render.raster import render_mesh
from core.types import Cameras, Mesh
from projects.mvdream_sds.model import MultiViewDenoiser
from projects.mvdream_sds.scene.cameras import OrbitCameras
from projects.mvdream_sds.scene.run_settings import distillation

PROMPT = "a red cube on a blue cylinder"
SIZE = 16  # pixels of the teacher's pictures


@functools.cache
def _toybox() -> dict[str, Any]:
    program = Program("mvdream_sds", None, "")
    cfg = composed(program, ["+experiment=mvdream_sds/toybox", f"prompt={PROMPT}", "out=x", "text_cache=null"])
    return plain({key: cfg[key] for key in program.keys})


def settings(out: Path, **changes: Any) -> dict[str, Any]:
    """The program's settings of a run of 6 steps, the last three at twice the resolution.

    `changes` are dotted keys with `__` for the dot.
    """
    cfg: dict[str, Any] = {key: plain(value) for key, value in copy.deepcopy(_toybox()).items()}
    cfg |= {"out": str(out), "weights": None}
    denoiser, unet = cfg["model"]["denoiser"], cfg["model"]["denoiser"]["unet"]
    denoiser["image_size"] = cfg["guidance"]["image_size"] = SIZE
    unet |= {"sample_size": SIZE // 4, "block_out_channels": [16, 16], "norm_num_groups": 8}
    unet |= {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}
    unet |= {"up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]}
    cfg["scene"]["geometry"]["encoding"] |= {"num_levels": 4, "log2_size": 10}
    cfg["scene"]["renderer"]["num_samples_per_ray"] = 32
    cfg["scene"]["renderer"]["occupancy"]["resolution"] = 8
    cfg["cameras"] |= {"width": [8, 16], "height": [8, 16], "resolution_milestones": [3]}
    cfg["orbit"] |= {"width": 16, "height": 16}
    cfg["logger"]["tensorboard"] = False
    cfg["trainer"] |= {"max_steps": 6, "log_every": 1, "val_every": 3, "preview_every": 3, "save_every": 2}
    for key, value in changes.items():
        *path, last = key.split("__")
        node = cfg
        for part in path:
            node = node[part]
        node[last] = value
    return cfg


def config(out: Path, **changes: Any) -> dict[str, Any]:
    """The same as the trainer reads it."""
    return distillation(settings(out, **changes))


def two_colored_ball() -> Mesh:
    """A ball on the ground side of the world's middle: red towards +x (the front), blue towards -x."""
    ball = sphere(0.35)
    vertices = ball.vertices * torch.tensor([1.0, 0.7, 0.7])
    front = (vertices[:, :1] > 0).float()
    colors = front * torch.tensor([0.8, 0.1, 0.1]) + (1 - front) * torch.tensor([0.1, 0.2, 0.8])
    return Mesh(vertices, ball.faces, colors)


class TrueViews:
    """A teacher that knows the answer: its x_0 is the encoded rendering of a mesh, over the background that it sees.

    It stands for a perfect denoiser: the trainer, the renderer and the encoder's gradients are the real ones.
    """

    def __init__(self, *, denoiser: MultiViewDenoiser, latents: Latents, num_views: int = 4, **unused: Any) -> None:
        self.latents = latents.requires_grad_(False)
        self.image_size, self.mesh = unused["image_size"], two_colored_ball()

    def __call__(self, rgb: Tensor, context: Any, poses: Tensor, *, step: int, generator: Any) -> dict[str, Tensor]:
        size = self.image_size
        lens = OrbitCameras(num_views=1, fovy_deg=49.1343, width=size, height=size).views().cameras.intrinsics
        cameras = Cameras(poses, lens.expand(len(poses), 3, 3), size, size)
        rgba = render_mesh(self.mesh, cameras, shading="none", cull_backfaces=True)
        truth = torch.stack([composite(view, rgb[i, 0, 0].detach()) for i, view in enumerate(rgba)])
        shown = F.interpolate(rearrange(rgb, "b h w c -> b c h w"), (size, size), mode="bilinear")
        z, target = (self.latents.mode(self.latents.moments(images * 2 - 1)) for images in (shown, truth))
        loss = 0.5 * (z - target.detach()).square().sum() / len(rgb)
        return {"loss_sds": loss, "grad_norm": (z - target).detach().norm() / len(rgb)}
