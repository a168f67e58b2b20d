"""What is asked for: texts, each with the name of its folder, and the cameras of the views."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cameras.rigs import mvdream
from core.diffusion.steps import ldm_num_steps
from core.errors import BadRequest
from core.types import Cameras
from projects.mvdream_sds.settings import Settings
from projects.mvdream_sds.switches import OFFICIAL

LONGEST_NAME = 60  # characters


@dataclass(frozen=True)
class Item:
    """One text and the folder of its views."""

    prompt: str
    folder: Path

    def __str__(self) -> str:
        return self.prompt


def find_items(cfg: Mapping[str, Any]) -> list[Item]:
    """The texts of `prompt=` or of the lines of `prompts=`; a line that is there twice is made once.

    Raises BadRequest for a file that cannot be read or holds no text.
    """
    if cfg["prompt"] is not None:
        texts = [str(cfg["prompt"]).strip()]
    else:
        texts = list(dict.fromkeys(read_lines(Path(str(cfg["prompts"])))))
    return [Item(text, Path(cfg["out"]) / folder_name(text)) for text in texts]


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadRequest(f"prompts={path}: cannot be read as UTF-8 text ({reason})") from error
    if not any(lines):
        raise BadRequest(f"prompts={path}: holds no text; write one in each line")
    return [line for line in lines if line]


def folder_name(prompt: str) -> str:
    """A name made of the words; where it does not say all of the text, it ends in a digest of it."""
    name = re.sub(r"\W+", "_", prompt.lower()).strip("_")[:LONGEST_NAME].strip("_")
    if name.replace("_", " ") == prompt and name.isascii():
        return name
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return "_".join([*([name] if name.isascii() and name else []), digest])


def cameras_of(settings: Settings) -> Cameras:
    """Of the views, in their order. The model reads their directions alone: lens and distance are the rig's."""
    return mvdream(
        size=settings.size,
        num_views=settings.num_views,
        elevation_deg=settings.elevation,
        azimuth_deg=settings.azimuth,
        span_deg=settings.azimuth_span,
    )


def remarks(model: Mapping[str, Any], settings: Settings, negative_prompt: str) -> Iterator[str]:
    """What is served although the model was not trained for it, what is not read, and what becomes of numbers."""
    trained_views, trained_size = model["denoiser"]["num_views"], model["denoiser"]["image_size"]
    if settings.use_camera and settings.num_views != trained_views:
        yield (
            f"num_views={settings.num_views}: the model was trained with {trained_views} views of an object; other "
            "numbers are made all at once too, but may agree less"
        )
    if settings.scheduler == OFFICIAL and settings.timestep_spacing == "leading":
        made = ldm_num_steps(settings.sample_steps, drop_last=False)
        if made != settings.sample_steps:
            yield f"sample_steps={settings.sample_steps}: {made} are made, as by the official code"
    if settings.size != trained_size:
        yield f"size={settings.size}: the model was trained with images of {trained_size} pixels; others look worse"
    if negative_prompt and settings.cfg_scale == 1:
        yield "cfg_scale=1 asks for no guidance, so negative_prompt is not read"
    if not settings.use_camera:
        yield (
            "use_camera=false: every view is an image of its own, without a camera; elevation, azimuth, azimuth_span "
            "and mask are not read"
        )
