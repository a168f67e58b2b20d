"""Held-out toybox objects -> one view set each."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.config import instantiate, whole
from core.data.toybox import NUM_VIEWS, ToyboxPack, open_pack
from core.device import autocast, choose_device
from core.errors import BadOutput
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.training.randomness import generator
from core.views import PROVENANCE, ViewSet, write_views
from projects.syncdreamer.sampling import sample_views
from projects.syncdreamer.system import SyncDreamerSystem, check_image_size
from projects.syncdreamer.weights import load_weights, weights_file

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
    system = instantiate(cfg.model)
    check_image_size(pack.images.shape[-1], system.denoiser)
    load_weights(system, path)
    system = system.eval().requires_grad_(False).to(device)
    cameras = system.denoiser.cameras.to("cpu")
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    record = provenance(config, weights=[path], seed=cfg.seed)
    shaping = {key: value for key, value in config.items() if key not in ASIDE}
    record["key"] = config_hash(shaping | {"data": pack.sha256, "weights": record["weights"]})

    missing = [number for number in range(cfg.num_objects) if _key(out / pack.uids[number]) != record["key"]]
    if not cfg.overwrite:
        _check_free([out / pack.uids[number] for number in missing])
    with progress_bar() as bar, autocast(device, cfg.precision):
        batches = torch.tensor(missing).split(cfg.objects_per_batch) if missing else ()
        task = bar.add_task("sampling", total=len(batches) * cfg.sample_steps)
        for batch in batches:
            began = time.process_time()
            made = predict_batch(system, pack, batch.tolist(), cfg, lambda: bar.advance(task))
            source = record | {"cpu_seconds": round((time.process_time() - began) / len(batch), 2)}
            for number, rgba in zip(batch.tolist(), made, strict=True):
                name = pack.uids[number]
                write_views(out / name, ViewSet(rgba, cameras, name, provenance=source), overwrite=True)
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


def _check_free(folders: list[Path]) -> None:
    taken = [folder for folder in folders if folder.exists() and any(folder.iterdir())]
    if taken:
        raise BadOutput(
            f"{len(taken)} folders hold other views, of other settings, weights or data, the first: {str(taken[0])!r}; "
            "choose another out= or set overwrite=true"
        )


def _key(folder: Path) -> str | None:
    """What decided the views that are there; they are written whole or not at all."""
    try:
        return json.loads((folder / PROVENANCE).read_text(encoding="utf-8")).get("key")
    except (OSError, ValueError, AttributeError):
        return None
