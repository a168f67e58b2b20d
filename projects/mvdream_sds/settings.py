"""The settings of MVDream's `generate`, and what they may be. Loads no torch: wrong ones are refused at once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from core.config import number, one_of, whole
from core.device import PRECISIONS, check_device
from core.diffusion.steps import SPACINGS, check_num_steps, ldm_num_steps
from core.errors import BadConfig, BadRequest
from core.masks import MODES
from projects.mvdream_sds.switches import MOST_STEPS, OFFICIAL, SCHEDULERS

# What decides a result beside the text; where it goes, which other texts there are and where it is computed do not.
SHAPING = (
    "seed", "samples", "num_views", "use_camera", "elevation", "azimuth", "azimuth_span", "size", "mask",
    "negative_prompt", "scheduler", "sample_steps", "timestep_spacing", "eta", "cfg_scale", "precision", "model",
)  # fmt: skip
WIDEST = 2048  # pixels
SYSTEM = "projects.mvdream_sds.system.MultiViewSystem"
DREAMBOOTH = "projects.mvdream_sds.dreambooth.DreamBoothSystem"
TEACHING = ("preservation", "prior_weight")  # settings that only the latter has


@dataclass(frozen=True)
class Settings:
    """How a text becomes views; angles in degrees, as the official script counts them."""

    samples: int = 3
    num_views: int = 4
    use_camera: bool = True
    elevation: float = 15.0
    azimuth: float = 90.0
    azimuth_span: float = 360.0
    mask: str = "auto"
    scheduler: str = OFFICIAL
    sample_steps: int = 50
    timestep_spacing: str = "leading"
    eta: float = 0.0
    cfg_scale: float = 10.0
    batch_view_num: int = 8
    seed: int = 23
    precision: str = "32"
    size: int = 256

    @classmethod
    def of(cls, cfg: Mapping[str, Any]) -> "Settings":
        """From the program's settings, which `check` has seen."""
        kinds = {field.name: type(field.default) for field in fields(cls) if field.name != "size"}
        size = cfg["size"] or cfg["model"]["denoiser"]["image_size"]
        return cls(size=size, **{name: kind(cfg[name]) for name, kind in kinds.items()})

    @property
    def max_objects(self) -> int:
        """Objects in one batch of the UNet: it makes all views of one at once, or each by itself."""
        return max(1, self.batch_view_num // (self.num_views if self.use_camera else 1))


def check(cfg: dict[str, Any]) -> None:
    """Refuse what no views can be made with."""
    _check_texts(cfg)
    for key in ("samples", "num_views", "batch_view_num", "sample_steps"):
        whole(key, cfg[key])
    number("elevation", cfg["elevation"], -90, 90)
    number("azimuth", cfg["azimuth"], -360, 360)
    number("azimuth_span", cfg["azimuth_span"], 0, 360, above=True)
    if cfg["size"] is not None:
        whole("size", cfg["size"], most=WIDEST)
        step = size_step(cfg["model"])
        if cfg["size"] % step:
            raise BadConfig(f"size={cfg['size']}: this model's images have sides in steps of {step} pixels")
    one_of("mask", cfg["mask"], MODES)
    number("cfg_scale", cfg["cfg_scale"], 0)
    number("eta", cfg["eta"], 0, 1)
    one_of("scheduler", cfg["scheduler"], list(SCHEDULERS))
    one_of("timestep_spacing", cfg["timestep_spacing"], SPACINGS)
    one_of("precision", str(cfg["precision"]), list(PRECISIONS))
    check_device(cfg["device"])
    _check_steps(cfg)


def check_adapters(lora: Mapping[str, Any] | None, start: str | None) -> None:
    """BadConfig for adapters of a model that nothing was loaded into: they alone learn, on weights that stay random."""
    if lora is not None and start is None:
        raise BadConfig(
            "model.lora learns adapters of a trained model: give its weights, such as "
            "model.start=ckpt/sd-v2.1-base-4view.pt, or set model.lora=null"
        )


def system_of(model: Mapping[str, Any]) -> str:
    """`_target_` of the model where nothing is trained."""
    return SYSTEM if model["_target_"] == DREAMBOOTH else model["_target_"]


def check_text(key: str, text: Any) -> None:
    """BadConfig for a text that is not made of characters: bytes of a command line that are no UTF-8."""
    try:
        str(text).encode()
    except UnicodeEncodeError as error:
        raise BadConfig(
            f"{key}: character {error.start + 1} of {str(text)!a} is no UTF-8; type it anew, in a terminal that sends "
            "UTF-8"
        ) from error


def size_step(model: Mapping[str, Any]) -> int:
    """Pixels by which the sides of a model's images may differ: the UNet halves the latents at each level but one."""
    unet = model["denoiser"]["unet"]
    reduction = model["denoiser"]["image_size"] // unet["sample_size"]
    return reduction * 2 ** (len(unet["block_out_channels"]) - 1)


def check_any_text(cfg: Mapping[str, Any]) -> None:
    """BadConfig where none is given. Apart from `check`, which presets pass too."""
    if cfg["prompt"] is None and cfg["prompts"] is None:
        raise BadConfig("no text: give prompt='a red cube on a blue cylinder', or prompts=FILE with one in each line")


def _check_texts(cfg: Mapping[str, Any]) -> None:
    prompt, prompts = cfg["prompt"], cfg["prompts"]
    if prompt is not None and prompts is not None:
        raise BadConfig(f"prompt={prompt} and prompts={prompts}: give one of them; a file may hold the other too")
    if prompt is not None and not str(prompt).strip():
        raise BadConfig("prompt is empty; give a text, such as prompt='a red cube on a blue cylinder'")
    if prompts is not None and not str(prompts).strip():
        raise BadConfig("prompts is empty; give a file with one text in each line")
    for key in ("prompt", "negative_prompt", "suffix"):
        check_text(key, cfg[key])


def _check_steps(cfg: Mapping[str, Any]) -> None:
    scheduler, steps, spacing = cfg["scheduler"], cfg["sample_steps"], cfg["timestep_spacing"]
    if scheduler != OFFICIAL and cfg["eta"] != 0:
        raise BadConfig(f"eta={cfg['eta']} is of scheduler={OFFICIAL}; set eta=0 with scheduler={scheduler}")
    if scheduler != OFFICIAL:
        whole("sample_steps", steps, most=MOST_STEPS)
        return
    try:
        if spacing == "leading":
            ldm_num_steps(steps, drop_last=False)
        else:
            check_num_steps(steps, spacing=spacing)
    except BadRequest as error:
        raise BadConfig(f"sample_steps={steps}: {error}") from error
