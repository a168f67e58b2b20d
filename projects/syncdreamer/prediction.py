"""Held-out toybox objects -> one view set each."""

import time
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.config import instantiate, whole
from core.data.toybox import NUM_VIEWS, open_pack
from core.device import autocast, choose_device
from core.progress import console, progress_bar
from core.provenance import provenance
from core.training.randomness import generator
from core.views import ViewSet, write_views
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.sampling import with_white_as_alpha
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.weights import load_weights, weights_file


@torch.no_grad()
def predict(cfg: DictConfig) -> None:
    """The program behind `python -m projects.syncdreamer.predict`: writes `out/<object>` for every object."""
    out, device = Path(cfg.out), choose_device(cfg.device)
    path = weights_file(cfg.weights)
    pack = open_pack(cfg.root, cfg.split)
    whole("num_objects", cfg.num_objects, most=len(pack.uids))
    system = instantiate(cfg.model)
    load_weights(system, path)
    system = system.eval().requires_grad_(False).to(device)

    numbers = range(cfg.num_objects)
    inputs = torch.cat([pack.pixels(number, [NUM_VIEWS + cfg.input_view]) for number in numbers])
    elevations = torch.stack([pack.elevations[number, cfg.input_view] for number in numbers])
    began = time.process_time()
    with autocast(device, cfg.precision):
        made = generate_all(system, inputs, elevations, cfg, device)
    seconds = (time.process_time() - began) / len(inputs)
    record = provenance(OmegaConf.to_container(cfg, resolve=True), weights=[path], seed=cfg.seed)
    write_view_sets(system, made, pack.uids, out, record | {"cpu_seconds": round(seconds, 2)})
    console.print(f"{out}: {len(inputs)} objects, {seconds:.1f} CPU-seconds each", markup=False)


def generate_all(
    system: SyncDreamerSystem,
    inputs: Float[Tensor, "n 3 h w"],
    elevations: Float[Tensor, "n"],
    cfg: DictConfig,
    device: torch.device,
) -> Float[Tensor, "n v 3 h w"]:
    """Views of every input in [-1, 1]. Each object has its own noise, so batches do not change the result."""
    made = []
    batches = torch.arange(len(inputs)).split(cfg.objects_per_batch)
    with progress_bar() as bar:
        task = bar.add_task("sampling", total=len(batches) * cfg.sample_steps)
        for batch in batches:
            randoms = [generator(cfg.seed, int(i), stream="evaluate") for i in batch]

            def draw(shape, randoms=randoms) -> Tensor:
                return torch.stack([torch.randn(shape[1:], generator=random) for random in randoms]).to(device)

            pixels = inputs[batch].to(device)
            moments = system.latents.moments(pixels)
            noise = draw((len(batch), moments.shape[1] // 2, *moments.shape[2:]))
            condition = system.condition(
                system.image_encoder(pixels), system.latents.sample(moments, noise), elevations[batch].to(device)
            )
            latents = sample(
                system.denoiser,
                condition,
                draw,
                num_steps=cfg.sample_steps,
                guidance_scale=cfg.cfg_scale,
                eta=cfg.eta,
                views_per_batch=cfg.batch_view_num,
                on_step=lambda *_: bar.advance(task),
            )
            decoded = system.latents.decode(rearrange(latents, "b v c h w -> (b v) c h w"))
            made.append(rearrange(decoded.float().cpu().clamp(-1, 1), "(b v) c h w -> b v c h w", b=len(batch)))
    return torch.cat(made)


def write_view_sets(
    system: SyncDreamerSystem, made: Float[Tensor, "n v 3 h w"], names: list[str], folder: Path, record: dict[str, Any]
) -> None:
    """One folder per object, for projects.benchmark.reconstruct."""
    cameras = system.denoiser.cameras.to("cpu")
    for name, views in zip(names, made, strict=False):
        views_of_object = ViewSet(with_white_as_alpha((views + 1) / 2), cameras, name, provenance=record)
        write_views(folder / name, views_of_object, overwrite=True)
