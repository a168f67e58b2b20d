"""Videos: .mp4 where an encoder is at hand, otherwise an animated .gif, otherwise numbered .png files."""

import warnings
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from core.files import atomic_file, atomic_folder
from core.images import write_image

TURN_SECONDS = 3.0  # of a video of views around an object


def turn_fps(num_views: int) -> int:
    """Frames per second at which so many views make one turn."""
    return max(1, round(num_views / TURN_SECONDS))


def write_video(path: str | Path, frames: Float[Tensor, "num_frames 3 height width"], *, fps: int = 30) -> Path:
    """Write `frames` (sRGB in [0, 1]) to `path`, an .mp4 or .gif; returns what was written.

    Without ffmpeg an .mp4 becomes a .gif beside it, with a warning. H.264 wants even sides: an odd one repeats its last
    row or column.
    """
    path = Path(path)
    if path.suffix.lower() == ".mp4":
        try:
            _write_mp4(path, frames, fps)
            return path
        except (ImportError, RuntimeError) as error:  # imageio-ffmpeg raises RuntimeError when it finds no binary
            warnings.warn(f"no mp4 encoder ({error}); writing {path.stem}.gif instead", stacklevel=2)
            path = path.with_suffix(".gif")
    try:
        _write_gif(path, frames, fps)
        return path
    except (OSError, ValueError) as error:
        folder = path.with_suffix("")
        warnings.warn(f"no gif ({error}); writing single images into {folder.name}/ instead", stacklevel=2)
        with atomic_folder(folder, overwrite=True) as temporary:
            for index, frame in enumerate(frames):
                write_image(temporary / f"{index:03d}.png", frame)
        return folder


def to_bytes(frames: Float[Tensor, "num_frames 3 height width"]) -> np.ndarray:
    """uint8 [num_frames, height, width, 3]."""
    return (frames.detach().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _write_mp4(path: Path, frames: Tensor, fps: int) -> None:
    import imageio_ffmpeg  # brings a binary of its own; optional

    height, width = frames.shape[-2:]
    even = F.pad(frames, (0, width % 2, 0, height % 2), mode="replicate")
    with atomic_file(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
            (even.shape[-1], even.shape[-2]),
            fps=fps,
            codec="libx264",
            pix_fmt_out="yuv420p",  # the only layout that every browser plays
            quality=8,
            macro_block_size=2,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        try:
            for frame in to_bytes(even):
                writer.send(frame)
        finally:
            writer.close()


def _write_gif(path: Path, frames: Tensor, fps: int) -> None:
    images = [Image.fromarray(frame) for frame in to_bytes(frames)]
    with atomic_file(path) as temporary:
        images[0].save(temporary, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
