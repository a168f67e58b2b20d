"""From picture files to view sets on disk: SyncDreamer's `generate`, with its official settings and their defaults."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.batch import run_batch
from core.config import instantiate
from core.device import autocast, choose_device
from core.diffusion.samplers import uniform_timesteps
from core.errors import BadConfig, BadImage, BadRequest
from core.files import atomic_folder, list_inputs
from core.foreground import foreground_mask
from core.images import composite, contact_sheet, prepare_input, read_image_with_info, write_image
from core.memory import module_bytes, on_meta, peak_bytes
from core.metrics.consistency import consistency
from core.models.bundled import weights_file
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.training.randomness import generator
from core.views import ViewSet, write_views
from projects.syncdreamer.model import Condition
from projects.syncdreamer.sampler import SAMPLERS, sample
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.weights import MISSING, load_weights

# What decides a result; where it goes, which other pictures there are and where it is computed do not.
SHAPING = (
    "seed", "mask", "elevation", "crop_size", "sample_num", "cfg_scale", "sampler", "sample_steps", "eta", "precision",
    "weights", "model",
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
    eta: float = 1.0
    batch_view_num: int = 8
    seed: int = 6033
    mask: str = "alpha"

    def __post_init__(self) -> None:
        uniform_timesteps(self.sample_steps)  # refuses counts that the rule cannot give
        if self.sampler not in SAMPLERS:
            raise BadConfig(f"sampler={self.sampler} is not one of {', '.join(SAMPLERS)}")
        for name in ("sample_num", "batch_view_num"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name}={getattr(self, name)} must be at least 1")
        if not -90 <= self.elevation <= 90:
            raise BadConfig(f"elevation={self.elevation} is in degrees above the horizon, between -90 and 90")
        if not (math.isfinite(self.cfg_scale) and self.cfg_scale >= 0):
            raise BadConfig(f"cfg_scale={self.cfg_scale} must not be negative; 1 means no guidance, 2 is the paper's")
        if not 0 <= self.eta <= 1:
            raise BadConfig(f"eta={self.eta} must lie between 0 (deterministic) and 1 (the paper's)")


def generate(cfg: DictConfig) -> list[dict[str, Any]]:
    """The program behind `python -m projects.syncdreamer.generate`; returns one record per input."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    settings = Settings(**{field.name: type(field.default)(cfg[field.name]) for field in fields(Settings)})
    device = choose_device(cfg.device)
    inputs = list_inputs(cfg.input)
    check_num_views(cfg.num_views, cfg.model.denoiser.num_views)
    path = weights_file(cfg.weights, advice=MISSING)
    system = instantiate(cfg.model)
    load_weights(system, path)
    system = system.eval().requires_grad_(False).to(device)
    system.latents.max_batch = settings.batch_view_num
    record = provenance(plain, weights=[path], seed=cfg.seed)
    out = Path(cfg.out)
    say = partial(console.print, markup=False, highlight=False)
    say(memory_estimate(system, settings, device))

    def work(image: Path) -> dict[str, Any]:
        rgba, how = read_object(image, settings.mask)
        with atomic_folder(out / folder_name(image, inputs), overwrite=cfg.overwrite) as folder, progress_bar() as bar:
            task = bar.add_task(image.name, total=settings.sample_num * settings.sample_steps)
            with autocast(device, cfg.precision):
                found = [*samples(system, rgba, settings, device, lambda: bar.advance(task))]
            scores = []
            for number, (rgba_views, pixels) in enumerate(found):
                source = {**record, "input": str(image), "mask": how}
                views = ViewSet(rgba_views, system.denoiser.cameras.to("cpu"), image.stem, provenance=source)
                write_views(folder / str(number), views)
                # The official picture: what was decoded, without a mask, cut to 8 bits.
                row = contact_sheet(rgba_views[:, :3], len(views))
                write_image(folder / f"{number}.png", (row * 255).floor() / 255)
                write_image(folder / "input.png", (pixels + 1) / 2)
                scores.append(consistency(views).score)
            order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
            write_image(folder / "contact_sheet.png", sheet(found, order))
            ranking = [{"sample": n, "consistency": round(scores[n], 4)} for n in order]
            (folder / "ranking.json").write_text(json.dumps({"best": order[0], "ranking": ranking}, indent=2) + "\n")
        final = out / folder_name(image, inputs)
        say(f"{final}: best sample {order[0]} (consistency {scores[order[0]]:.3f}); mask: {how}")
        return {"folder": str(final), "best": str(final / str(order[0])), "ranking": ranking, "mask": how}

    shaping = config_hash({key: plain[key] for key in SHAPING})
    return run_batch(inputs, work, out=out, settings=shaping, overwrite=cfg.overwrite, report=say)


def check_num_views(asked: int, trained: int) -> None:
    """SyncDreamer makes the ring it was trained on, whole."""
    if asked != trained:
        raise BadRequest(
            f"num_views={asked}: SyncDreamer makes exactly its {trained} views; use projects.viewfusion for any number "
            "of views and any poses"
        )


def read_object(path: Path, mask: str) -> tuple[Float[Tensor, "4 h w"], str]:
    """A picture whose alpha marks the object, and how the mask was found."""
    rgba, info = read_image_with_info(path)
    if mask == "alpha":
        if not info.has_alpha:
            raise BadImage(
                f"{path} has no alpha channel; pass mask=auto to find the object, mask=white for a white background, "
                "or mask=none to use the whole picture"
            )
        return rgba, "the picture's alpha"
    alpha, how = foreground_mask(composite(rgba), mask)
    return torch.cat([rgba[:3], alpha[None]]), how


@torch.no_grad()
def samples(
    system: SyncDreamerSystem, rgba: Float[Tensor, "4 h w"], settings: Settings, device: torch.device, on_step
) -> Iterator[tuple[Float[Tensor, "v 4 h w"], Float[Tensor, "3 h w"]]]:
    """Per sample: RGBA views in [0, 1], and the input's pixels in [-1, 1] as the model saw them."""
    denoiser = system.denoiser
    pixels = prepare_input(rgba, crop_size=settings.crop_size, size=denoiser.image_size)
    batch = pixels[None].to(device)
    context, moments = system.image_encoder(batch), system.latents.moments(batch)
    elevation = torch.tensor([math.radians(settings.elevation)], device=device)
    for number in range(settings.sample_num):
        # Each sample has its own stream, so the fourth of four is the fourth of eight. Noise is drawn on the CPU:
        # the same on every device. First the autoencoder's noise, then x_T, then one draw per step.
        random = generator(settings.seed, number, stream="sample")
        condition = system.condition(context, system.latents.sample(moments, random), elevation)
        latents = sample(
            denoiser,
            condition,
            lambda shape, random=random: torch.randn(shape, generator=random).to(device),
            num_steps=settings.sample_steps,
            guidance_scale=settings.cfg_scale,
            eta=settings.eta,
            views_per_batch=settings.batch_view_num,
            on_step=lambda *_: on_step(),
        )
        decoded = system.latents.decode(rearrange(latents, "b v c h w -> (b v) c h w"))
        yield with_white_as_alpha((decoded.float().cpu().clamp(-1, 1) + 1) / 2), pixels


def with_white_as_alpha(rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 4 h w"]:
    """The model paints on white: white joined to the border becomes transparent. An all-white view stays empty."""
    masks = []
    for image in rgb:
        try:
            masks.append(foreground_mask(image, "white")[0])
        except BadImage:
            masks.append(torch.zeros_like(image[0]))
    return torch.cat([rgb, torch.stack(masks)[:, None]], dim=1)


def sheet(found: list, order: list[int]) -> Float[Tensor, "3 h w"]:
    """The input and the 16 views of each sample, one row each, the best first."""
    rows = []
    for number in order:
        views, pixels = found[number]
        rows += [(pixels + 1) / 2, *composite(views)]
    return contact_sheet(torch.stack(rows), len(rows) // len(order))


def folder_name(image: Path, inputs: list[Path]) -> str:
    """The picture's stem; with its suffix where two inputs share a stem."""
    return image.stem if sum(other.stem == image.stem for other in inputs) == 1 else image.name


def memory_estimate(system: SyncDreamerSystem, settings: Settings, device: torch.device) -> str:
    """Weights plus the largest peak of encoding, one denoising step and decoding, counted on tensors without data."""
    denoiser = system.denoiser
    config = denoiser.unet.config
    size, channels, side = config.sample_size, config.out_channels, denoiser.image_size

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    condition = Condition(empty(1, 1, config.cross_attention_dim), empty(1, channels, size, size), empty(1))
    views = empty(1, denoiser.num_views, channels, size, size)
    guided = partial(denoiser.denoise, guidance_scale=settings.cfg_scale, views_per_batch=settings.batch_view_num)
    with on_meta(system):
        peak = max(
            peak_bytes(lambda: system.latents.moments(empty(1, 3, side, side))),
            peak_bytes(lambda: guided(views, empty(1, dtype=torch.long), condition)),
            peak_bytes(lambda: system.latents.decode(views[0])),
        )
    weights = module_bytes(system)
    return (
        f"memory: about {(weights + peak) / 2**30:.2f} GiB on {device} in 32 bits ({weights / 2**30:.2f} weights, "
        f"{peak / 2**30:.2f} activations; a smaller batch_view_num={settings.batch_view_num} lowers the latter)"
    )
