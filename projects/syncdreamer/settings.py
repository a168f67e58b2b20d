"""The settings of SyncDreamer's `generate`, and what they may be. Loads no torch: wrong ones are refused at once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from core.config import number, one_of, whole
from core.device import PRECISIONS, check_device
from core.diffusion.steps import SPACINGS, check_num_steps
from core.errors import BadConfig, BadRequest
from core.masks import check_mask

SAMPLERS = ("ddim",)
# What decides a result; where it goes, which other pictures there are and where it is computed do not. Files count by
# their content (`pipeline.Maker.key`): the picture, a mask, the weights.
SHAPING = (
    "seed", "elevation", "crop_size", "sample_num", "cfg_scale", "sampler", "sample_steps", "timestep_spacing", "eta",
    "precision", "model",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How one picture becomes views; the names are the official command's."""

    elevation: float = 30.0
    crop_size: int = -1
    sample_num: int = 4
    cfg_scale: float = 2.0
    sampler: str = "ddim"
    sample_steps: int = 50
    timestep_spacing: str = "leading"
    eta: float = 1.0
    batch_view_num: int = 8
    seed: int = 6033
    mask: str = "alpha"
    precision: str = "32"

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> "Settings":
        """From the program's settings, which `check` has seen."""
        return cls(**{field.name: type(field.default)(cfg[field.name]) for field in fields(cls)})


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no picture can be made with."""
    denoiser = cfg["model"]["denoiser"]
    for key in ("sample_num", "num_views"):
        whole(key, cfg[key])
    number("elevation", cfg["elevation"], -90, 90)
    one_of("sampler", cfg["sampler"], SAMPLERS)
    check_mask(str(cfg["mask"]), more=("alpha",))
    check_sampling(cfg)
    _check_crop(cfg["crop_size"], denoiser["image_size"])
    _check_num_views(cfg["num_views"], denoiser["num_views"])


def check_sampling(cfg: Mapping[str, Any]) -> None:
    """Refuse what no sampling can be done with; `predict` has these settings too."""
    for key in ("batch_view_num", "sample_steps"):
        whole(key, cfg[key])
    number("cfg_scale", cfg["cfg_scale"], 0)
    number("eta", cfg["eta"], 0, 1)
    one_of("timestep_spacing", cfg["timestep_spacing"], SPACINGS)
    one_of("precision", str(cfg["precision"]), list(PRECISIONS))
    check_device(cfg["device"])
    try:
        check_num_steps(cfg["sample_steps"], spacing=cfg["timestep_spacing"])
    except BadRequest as error:
        raise BadConfig(f"sample_steps={cfg['sample_steps']}: {error}") from error


def _check_crop(crop_size: int, image_size: int) -> None:
    if crop_size != -1:
        try:
            whole("crop_size", crop_size, most=image_size)
        except BadConfig as error:
            raise BadConfig(f"{error} (the model's image size), or -1 to keep the framing") from error


def _check_num_views(asked: int, trained: int) -> None:
    """SyncDreamer makes the ring it was trained on, whole."""
    if asked != trained:
        raise BadConfig(
            f"num_views={asked}: SyncDreamer makes exactly its {trained} views; use projects.viewfusion for any number "
            "of views and any poses"
        )
