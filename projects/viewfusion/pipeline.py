"""From pictures to view sets on disk: what `python -m projects.viewfusion.generate` does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.attention.multiview import use_self_attention
from core.batch import Record, finished, run_batch
from core.config import instantiate
from core.device import autocast, choose_device
from core.errors import BadImage, UserError
from core.files import atomic_folder, list_inputs, output_names, sha256_file
from core.foreground import mask_sha256, read_object
from core.images import image_sha256
from core.masks import check_mask_here
from core.memory import out_of_memory_as_request
from core.models.bundled import frozen_files, weights_file, without_start
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.training.randomness import generator
from projects.viewfusion.autoregression import Draws, ViewFusion
from projects.viewfusion.estimate import estimate_memory
from projects.viewfusion.pictures import model_input
from projects.viewfusion.poses import to_cameras
from projects.viewfusion.request import Request, check_distances, make_request
from projects.viewfusion.results import MARK, VIEWS, views_of, write_result
from projects.viewfusion.settings import SHAPING, Settings
from projects.viewfusion.weights import MISSING, load_weights

say = partial(console.print, markup=False, highlight=False)


@dataclass(frozen=True)
class Item:
    """One object: its images, which have poses, and the folder of its views."""

    images: tuple[Path, ...]
    folder: Path

    def __str__(self) -> str:
        return ", ".join(map(str, self.images))


def generate(cfg: DictConfig) -> list[Record]:
    """The program behind `python -m projects.viewfusion.generate`; returns one record per object."""
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config = without_start(given, say)
    settings, device = Settings.of(config), choose_device(config["device"])
    check_mask_here(settings.mask)
    items = find_items(config["input"], Path(config["out"]))
    request = make_request(config, len(items[0].images), settings)
    check_distances(request, config["model"]["denoiser"]["distances"])
    weights = weights_file(config["weights"], advice=MISSING)
    estimate = estimate_memory(config["model"], settings, device)
    say(f"memory: {estimate}")
    with out_of_memory_as_request(estimate.hint):
        maker = Maker(config, settings, request, load_fusion(config["model"], settings, weights, device), weights)
        return run_batch(items, maker.make, out=Path(config["out"]), report=say)


def find_items(given: str | Sequence[str], out: Path) -> list[Item]:
    """One object for each image that a path, folder or glob names; a list of paths is images of one object."""
    if isinstance(given, str):
        paths = list_inputs(given)
        return [Item((path,), out / name) for path, name in zip(paths, output_names(paths), strict=True)]
    images = tuple(Path(path) for path in given)
    return [Item(images, out / output_names(images[:1])[0])]


def load_fusion(model: Mapping[str, Any], settings: Settings, weights: Path, device: torch.device) -> ViewFusion:
    """The model on its device, whole; what is wrong with the weights is no picture's fault, so this comes first."""
    system = instantiate(model)
    load_weights(system, weights, ema=settings.ema)
    if model["denoiser"]["attention"] == "eager":
        # It is quicker where there are gradients, and gives the same to rounding.
        use_self_attention(system.denoiser.unet, "torch")
    system.latents.max_batch = settings.batch_view_num
    system = system.eval().requires_grad_(False).to(device)
    return fusion_of(system, settings)


def fusion_of(system: Any, settings: Settings) -> ViewFusion:
    """The sampler around a `Zero123System`, as the settings say."""
    return ViewFusion(
        denoiser=system.denoiser,
        latents=system.latents,
        image_encoder=system.image_encoder,
        num_steps=settings.sample_steps,
        guidance_scale=settings.cfg_scale,
        eta=settings.eta,
        noise=settings.noise,
        fusion=settings.fusion,
        spacing=settings.timestep_spacing,
        drop_last=settings.drop_last,
        rows_per_batch=settings.batch_view_num,
    )


class Maker:
    """Makes one object's views after the other's, each in a folder of its own."""

    def __init__(
        self, config: Mapping[str, Any], settings: Settings, request: Request, fusion: ViewFusion, weights: Path
    ) -> None:
        self.config, self.settings, self.request, self.fusion = config, settings, request, fusion
        self.steps = fusion.plan(request.steps, request.inputs)
        self.cameras = to_cameras(request.targets, fusion.denoiser.image_size)
        self.provenance = provenance(config, weights=[weights], seed=settings.seed)
        self.provenance["weights"] |= {name: sha256_file(path) for name, path in frozen_files(config["model"]).items()}
        self.mask_sha256 = mask_sha256(settings.mask)

    def make(self, item: Item) -> Record:
        """The views of one object in its folder, unless they are there; returns the line for results.jsonl."""
        key = self.key(item)
        overwrite = self.config["overwrite"]
        done = None if overwrite else finished(item.folder, key, mark=MARK)
        if done is not None:
            say(f"{item.folder}: done before, skipped")
            return {"status": "skipped", "folder": str(item.folder), **done}
        inputs, how = read_inputs(item.images, self.settings, self.fusion.denoiser.image_size)
        with atomic_folder(item.folder, overwrite=overwrite, mark=MARK) as temporary, progress_bar() as bar:
            task = bar.add_task(item.folder.name, total=len(self.steps))
            made = make_views(self.fusion, inputs, self.steps, self.settings, lambda: bar.advance(task))
            views = views_of(self.request, inputs, made)
            source = {**self.provenance, "input": [str(path) for path in item.images], "mask": how}
            about = {"key": key, "mask": how, "fusion": self.settings.fusion, "made": len(made)}
            name = item.images[0].stem
            record = write_result(temporary, self.request, inputs, views, self.cameras, name, source, about)
        say(f"{item.folder / VIEWS}: {len(views)} views ({len(made)} made); mask: {how}")
        return {"folder": str(item.folder), **record}

    def key(self, item: Item) -> str:
        """A digest of all that decides the result. Files count by their content, poses by their numbers."""
        shaping = {key: self.config[key] for key in SHAPING}
        mask = self.mask_sha256 or self.settings.mask
        digests = sorted(self.provenance["weights"].values())
        pictures = [image_sha256(path) for path in item.images]
        return config_hash(shaping | self.request.key() | {"pictures": pictures, "mask": mask, "weights": digests})


def read_inputs(paths: Sequence[Path], settings: Settings, size: int) -> tuple[Float[Tensor, "k 4 h w"], str]:
    """The images of one object as the model reads them, and how their masks were found; BadImage where they differ."""
    images, ways, first = [], [], None
    for path in paths:
        rgba, how = read_object(path, settings.mask)
        first = first or (rgba.shape[2], rgba.shape[1])
        if (rgba.shape[2], rgba.shape[1]) != first:
            raise BadImage(
                f"{path} is {rgba.shape[2]} x {rgba.shape[1]} pixels, {paths[0]} {first[0]} x {first[1]}; images of "
                "one object are taken as by one camera: give them one size"
            )
        try:
            images.append(model_input(rgba, size, crop_size=settings.crop_size, alpha=settings.alpha))
        except UserError as error:
            raise BadImage(f"{path}: {error}") from error
        ways.append(how)
    return torch.stack(images), "; ".join(dict.fromkeys(ways))


def make_views(
    fusion: ViewFusion, inputs: Float[Tensor, "k 4 h w"], steps: Sequence[Any], settings: Settings, on_view: Any
) -> Float[Tensor, "m 3 h w"]:
    """Pixels in [-1, 1] of all steps, on the CPU.

    An object draws from a stream of its own, so its views do not depend on what else is made: x_T and the noise of one
    view after the other.
    """
    pixels = (inputs[:, :3] * 2 - 1).to(fusion.device)
    draws = Draws(generator(settings.seed, 0, stream="sample"))
    with autocast(fusion.device, settings.precision):
        return fusion.views(pixels, steps, draws, on_view=on_view).float().cpu()
