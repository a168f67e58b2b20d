"""What is asked for: texts, each with the name of its folder, and the cameras of the views."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cameras.rigs import mvdream
from core.diffusion.steps import ldm_num_steps
from core.types import Cameras
from projects.mvdream_sds.settings import Settings
from projects.mvdream_sds.switches import OFFICIAL
from projects.mvdream_sds.texts import asked_texts, text_of


@dataclass(frozen=True)
class Item:
    """One text, or the file that holds it, and the folder of its views."""

    given: str | Path
    folder: Path

    def read(self) -> str:
        """The text; BadRequest for a file that cannot be read or holds none."""
        return text_of(self.given)

    def __str__(self) -> str:
        return str(self.given)


def find_items(cfg: Mapping[str, Any]) -> list[Item]:
    """The texts that `prompt=` or `prompts=` asks for; BadRequest where there is none."""
    texts = asked_texts(cfg["prompt"], cfg["prompts"])
    return [Item(given, Path(cfg["out"]) / name) for name, given in texts.items()]


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
