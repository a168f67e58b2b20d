"""The settings of ViewFusion's `generate`, and what they may be. Loads no torch: wrong ones are refused at once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from core.config import number, one_of, suggestion, whole
from core.device import PRECISIONS, check_device
from core.diffusion.steps import SPACINGS, check_num_steps, ldm_num_steps
from core.errors import BadConfig, BadRequest
from core.masks import check_mask
from projects.viewfusion.asked import MOST_VIEWS, check_poses
from projects.viewfusion.switches import ALPHAS, FUSIONS, NOISES, WAYS

CIRCLE = "circle"
TRANSFORMS = "transforms.json"
CIRCLE_VIEWS = 36  # officially
# What decides a result; where it goes, which other pictures there are and where it is computed do not. Files count by
# their content, poses by their numbers (`pipeline.Maker.key`).
SHAPING = (
    "seed", "crop_size", "alpha", "fusion", "noise", "inference_temp", "auto_temp", "window_deg", "way", "way_step_deg",
    "cfg_scale", "sample_steps", "timestep_spacing", "drop_last", "eta", "ema", "precision", "model",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How posed images become views; temperatures have the official names."""

    num_views: int | None = None
    mask: str = "alpha"
    alpha: str = "blend"
    crop_size: int = -1
    fusion: str = "interpolated_denoising"
    noise: str = "shared"
    inference_temp: float = 0.5
    auto_temp: float = 1.0
    window_deg: float = 125.0
    way: str = "auto"
    way_step_deg: float = 10.0
    cfg_scale: float = 3.0
    sample_steps: int = 75
    timestep_spacing: str = "leading"
    drop_last: bool = True
    eta: float = 1.0
    batch_view_num: int = 8
    ema: bool = True
    seed: int = 3407
    precision: str = "32"

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> "Settings":
        """From the program's settings, which `check` has seen."""
        kinds = {field.name: type(field.default) for field in fields(cls) if field.default is not None}
        return cls(num_views=cfg["num_views"], **{name: kind(cfg[name]) for name, kind in kinds.items()})


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no views can be made with."""
    if cfg["num_views"] is not None:
        whole("num_views", cfg["num_views"], most=MOST_VIEWS)
    _check_poses(cfg)
    _check_inputs(cfg)
    check_mask(str(cfg["mask"]), more=("alpha",))
    one_of("alpha", cfg["alpha"], ALPHAS)
    _check_crop(cfg)
    _check_way(cfg)
    check_sampling(cfg)


def check_sampling(cfg: Mapping[str, Any]) -> None:
    """Refuse what no sampling can be done with."""
    one_of("fusion", cfg["fusion"], list(FUSIONS))
    one_of("noise", cfg["noise"], NOISES)
    for key in ("inference_temp", "auto_temp"):
        number(key, cfg[key], 0, above=True)
    number("window_deg", cfg["window_deg"], 0, 180)
    number("cfg_scale", cfg["cfg_scale"], 0)
    number("eta", cfg["eta"], 0, 1)
    for key in ("batch_view_num", "sample_steps"):
        whole(key, cfg[key])
    one_of("timestep_spacing", cfg["timestep_spacing"], SPACINGS)
    one_of("precision", str(cfg["precision"]), list(PRECISIONS))
    check_device(cfg["device"])
    try:
        if cfg["timestep_spacing"] == "leading":
            ldm_num_steps(cfg["sample_steps"], drop_last=cfg["drop_last"])
        else:
            check_num_steps(cfg["sample_steps"], spacing=cfg["timestep_spacing"])
    except BadRequest as error:
        raise BadConfig(f"sample_steps={cfg['sample_steps']}: {error}") from error
    if cfg["drop_last"] and cfg["timestep_spacing"] != "leading":
        raise BadConfig(
            f"drop_last=true is of the official rule, timestep_spacing=leading; set drop_last=false with "
            f"timestep_spacing={cfg['timestep_spacing']}"
        )


def _check_poses(cfg: Mapping[str, Any]) -> None:
    """A circle, a list, a file or possibly a rig's name: which there are is known to code that loads torch."""
    poses = cfg["poses"]
    if poses is None or isinstance(poses, str):
        if poses is not None and not str(poses).strip():
            raise BadConfig("poses is empty; give circle, a rig's name, a transforms.json or a list of poses")
    else:
        check_poses("poses", poses)
    if cfg["num_views"] is not None and poses is not None and (not isinstance(poses, str) or is_file(poses)):
        raise BadConfig(f"num_views={cfg['num_views']}: poses= lists all its views; leave num_views away")


def _check_way(cfg: Mapping[str, Any]) -> None:
    """Which views come in between, where any can."""
    one_of("way", cfg["way"], WAYS)
    number("way_step_deg", cfg["way_step_deg"], 1, 180)
    if cfg["poses"] in (None, CIRCLE) and cfg["way"] != "auto":
        raise BadConfig(f"way={cfg['way']}: a circle has an order of its own; leave way away, or list poses")
    if cfg["fusion"] == "zero123" and cfg["way"] == "always":
        raise BadConfig("way=always: fusion=zero123 makes each view from the input alone; leave way away")


def is_file(poses: str) -> bool:
    """Whether the word names a file or folder, there or not, rather than a rig."""
    is_there = os.path.isfile(poses) or os.path.isfile(os.path.join(poses, TRANSFORMS))  # noqa: PTH113, PTH118
    return os.sep in poses or os.path.splitext(poses)[1] != "" or is_there  # noqa: PTH122 (a Path raises at long names)


def check_rig(poses: str, rigs: list[str]) -> None:
    """BadConfig for a word that is neither a circle, a rig nor a path."""
    if poses not in (CIRCLE, *rigs):
        known = [CIRCLE, *rigs]
        raise BadConfig(
            f"poses={poses}: choose one of {', '.join(known)}, a transforms.json or a list [[azimuth, elevation, "
            f"radius], ...]; {suggestion(poses, known)}"
        )


def _check_inputs(cfg: Mapping[str, Any]) -> None:
    images, poses = cfg["input"], cfg["input_poses"]
    if isinstance(images, list | tuple):
        if not images:
            raise BadConfig("input=[] names no image; give one or more")
        if not all(isinstance(image, str) for image in images):
            raise BadConfig(f"input={images}: expected paths of images")
        twice = [image for number, image in enumerate(images) if image in images[:number]]
        if twice:
            raise BadConfig(f"input: {twice[0]!r} is listed twice; give each image once")
    elif not isinstance(images, str):
        raise BadConfig(f"input={images}: expected a path, or a list of paths")
    if poses is not None and not isinstance(poses, str):
        check_poses("input_poses", poses)
    count = len(images) if isinstance(images, list | tuple) else 1
    if not isinstance(poses, str):
        check_count(count, 0 if poses is None else len(poses), images)


def check_count(num_images: int, num_poses: int, images: Any) -> None:
    """BadConfig unless each image of an object has its pose; a single image needs none."""
    if num_images != num_poses and not (num_images == 1 and num_poses == 0):
        raise BadConfig(
            f"input_poses: {num_poses} poses for {num_images} images of one object (input={images}); give each image "
            "one [azimuth, elevation, radius], in the order of input="
        )


def _check_crop(cfg: Mapping[str, Any]) -> None:
    crop_size, image_size = cfg["crop_size"], cfg["model"]["denoiser"]["image_size"]
    if crop_size == -1:
        return
    try:
        whole("crop_size", crop_size, most=image_size)
    except BadConfig as error:
        raise BadConfig(f"{error} (the model's image size), or -1 to keep the framing") from error
    if isinstance(cfg["input"], list | tuple) and len(cfg["input"]) > 1:
        raise BadConfig(
            f"crop_size={crop_size} frames each image by itself, as if all cameras were equally far; set crop_size=-1 "
            "with several images, and frame them alike"
        )
