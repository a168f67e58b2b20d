"""Held-out toybox objects -> one view set each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.config import instantiate, whole
from core.cpu import cpu_seconds
from core.data.toybox import NUM_VIEWS, ToyboxPack, open_pack
from core.device import autocast, choose_device
from core.images import check_image_size
from core.models.bundled import weights_file, without_start
from core.predicting import Predictions
from core.progress import console, progress_bar
from core.provenance import provenance
from core.training.randomness import generator
from core.views import ViewSet
from projects.syncdreamer.sampling import sample_views
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.weights import load_weights

# What does not decide an object's views: how many there are, and how they are computed.
ASIDE = ("out", "num_objects", "objects_per_batch", "batch_view_num", "device", "overwrite")


@torch.no_grad()
def predict(cfg: DictConfig) -> None:
    """The program behind `python -m projects.syncdreamer.predict`: writes `out/<object>` for every object.

    Each batch is written when it is made; started again, objects that are there with the same settings, weights and
    data are kept. BadOutput where others are, unless `cfg.overwrite` is set: then they are replaced.
    """
    out, device = Path(cfg.out), choose_device(cfg.device)
    path = weights_file(cfg.weights)
    pack = open_pack(cfg.root, cfg.split)
    whole("num_objects", cfg.num_objects, most=len(pack.uids))
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config = without_start(given, partial(console.print, markup=False))
    system = instantiate(config["model"])
    check_image_size(pack.images.shape[-1], system.denoiser.image_size)
    load_weights(system, path)
    system = system.eval().requires_grad_(False).to(device)
    cameras = system.denoiser.cameras.to("cpu")
    record = provenance(config, weights=[path], seed=cfg.seed)
    deciding = {key: value for key, value in config.items() if key not in ASIDE} | {"data": pack.sha256}
    predictions = Predictions.of(out, record, deciding, overwrite=cfg.overwrite)
    missing = predictions.missing(pack.uids[: cfg.num_objects])
    with progress_bar() as bar, autocast(device, cfg.precision):
        batches = torch.tensor(missing).split(cfg.objects_per_batch) if missing else ()
        task = bar.add_task("sampling", total=len(batches) * cfg.sample_steps)
        for batch in batches:
            began = cpu_seconds()
            made = predict_batch(system, pack, batch.tolist(), cfg, lambda: bar.advance(task))
            seconds = (cpu_seconds() - began) / len(batch)
            for number, rgba in zip(batch.tolist(), made, strict=True):
                predictions.write(ViewSet(rgba, cameras, pack.uids[number]), seconds)
    kept = f"; {cfg.num_objects - len(missing)} were there" if len(missing) < cfg.num_objects else ""
    console.print(f"{out}: {len(missing)} objects made{kept}", markup=False)


def predict_batch(
    system: SyncDreamerSystem, pack: ToyboxPack, numbers: list[int], cfg: DictConfig, on_step: Callable[[], None]
) -> Float[Tensor, "n v 4 h w"]:
    """Views of some objects. Each object has its own noise, so batches do not change the result."""
    device = system.denoiser.azimuths.device
    randoms = [generator(cfg.seed, number, stream="evaluate") for number in numbers]

    def draw(shape) -> Tensor:
        return torch.stack([torch.randn(shape[1:], generator=random) for random in randoms])

    pixels = torch.cat([pack.pixels(number, [NUM_VIEWS + cfg.input_view]) for number in numbers]).to(device)
    elevations = torch.stack([pack.elevations[number, cfg.input_view] for number in numbers]).to(device)
    moments = system.latents.moments(pixels)
    noise = draw((len(numbers), moments.shape[1] // 2, *moments.shape[2:])).to(device)
    condition = system.condition(system.image_encoder(pixels), system.latents.sample(moments, noise), elevations)
    return sample_views(system, condition, cfg, draw, on_step)
