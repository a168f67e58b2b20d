"""Held-out toybox objects -> views -> scores: per object, with means and 95% bootstrap intervals over objects."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from core.config import instantiate, number, one_of, whole
from core.data.toybox import NUM_VIEWS, open_pack
from core.device import PRECISIONS, autocast, choose_device
from core.diffusion.samplers import uniform_timesteps
from core.errors import BadConfig, BadRequest
from core.files import atomic_file
from core.images import contact_sheet, write_image
from core.metrics.images import flip, psnr, ssim
from core.metrics.summary import FLIP, PSNR, SSIM, mean_and_interval, table
from core.models.bundled import weights_file
from core.progress import console, progress_bar
from core.provenance import provenance
from core.training.randomness import generator
from core.views import ViewSet, write_views
from projects.syncdreamer.baselines import input_repeated, mean_view, nearest_object
from projects.syncdreamer.pipeline import with_white_as_alpha
from projects.syncdreamer.sampler import sample
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.weights import MISSING, load_weights

METRICS = {PSNR.name: psnr, SSIM.name: ssim, FLIP.name: flip}


@torch.no_grad()
def evaluate(cfg: DictConfig) -> float:
    """The program behind `python -m projects.syncdreamer.evaluate`; returns the model's mean PSNR."""
    check_settings(cfg)
    out, device = Path(cfg.out), choose_device(cfg.device)
    path = weights_file(cfg.weights, advice=MISSING)
    test, train = open_pack(cfg.root, cfg.split), open_pack(cfg.root, "train")
    if not 1 <= cfg.num_objects <= len(test.uids):
        raise BadConfig(
            f"num_objects={cfg.num_objects} must lie between 1 and the {len(test.uids)} objects of {cfg.split}"
        )
    system = instantiate(cfg.model)
    load_weights(system, path)
    system = system.eval().requires_grad_(False).to(device)

    start = cfg.input_view
    order = [(start + view) % NUM_VIEWS for view in range(NUM_VIEWS)]
    numbers = range(cfg.num_objects)
    truth = torch.stack([test.pixels(i, order) for i in numbers])
    inputs = torch.cat([test.pixels(i, [NUM_VIEWS + start]) for i in numbers])
    elevations = torch.stack([test.elevations[i, start] for i in numbers])

    began = time.process_time()
    with autocast(device, cfg.precision):
        made = generate_all(system, inputs, elevations, cfg, device)
    seconds = time.process_time() - began
    answers = {
        "SyncDreamer (toybox)": made,
        "the input view, repeated": input_repeated(inputs),
        "the mean training view": mean_view(train).expand(len(inputs), NUM_VIEWS, -1, -1, -1),
        "the nearest training object": nearest_object(train, inputs),
    }
    scores = {name: score(views, truth) for name, views in answers.items()}
    summary = {
        name: {metric: mean_and_interval(values) for metric, values in per_metric.items()}
        for name, per_metric in scores.items()
    }
    record = provenance(OmegaConf.to_container(cfg, resolve=True), weights=[path], seed=cfg.seed)
    result = {
        "objects": [test.uids[i] for i in numbers],
        "cpu_seconds_per_object": round(seconds / len(inputs), 2),
        "summary": summary,
        "per_object": {n: {m: [round(v, 5) for v in vs] for m, vs in s.items()} for n, s in scores.items()},
        "provenance": record,
    }
    with atomic_file(out / "scores.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, default=str) + "\n")
    text = table(summary)
    with atomic_file(out / "table.md") as temporary:
        temporary.write_text(text)
    write_view_sets(system, made[: cfg.write_views], [test.uids[i] for i in numbers], out / "views", record)
    for i in numbers:
        rows = torch.cat([inputs[i : i + 1], truth[i], inputs[i : i + 1], made[i]])
        write_image(out / "sheets" / f"{test.uids[i]}.png", (contact_sheet(rows, NUM_VIEWS + 1) + 1) / 2)
    shown = torch.stack([torch.cat([inputs[i : i + 1], v[i, ::4]]) for i in numbers for v in (truth, made)])
    write_image(out / "overview.png", (contact_sheet(rearrange(shown, "n v c h w -> (n v) c h w"), 20) + 1) / 2)
    console.print(text, markup=False)
    console.print(f"{out}: {seconds / len(inputs):.1f} CPU-seconds per object")
    return summary["SyncDreamer (toybox)"][PSNR.name]["mean"]


def check_settings(cfg: DictConfig) -> None:
    """Refuse what no evaluation can have, before any work."""
    whole("input_view", cfg.input_view, least=0, most=NUM_VIEWS - 1)
    for key in ("num_objects", "objects_per_batch", "batch_view_num"):
        whole(key, cfg[key])
    number("cfg_scale", cfg.cfg_scale, 0)
    number("eta", cfg.eta, 0, 1)
    one_of("precision", str(cfg.precision), list(PRECISIONS))
    try:
        uniform_timesteps(cfg.sample_steps)
    except BadRequest as error:
        raise BadConfig(f"sample_steps={cfg.sample_steps}: {error}") from error


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


def score(views: Float[Tensor, "n v 3 h w"], truth: Float[Tensor, "n v 3 h w"]) -> dict[str, list[float]]:
    """Per metric, the mean over the 16 views of each object, after rounding to 8 bits as a file would."""
    views, truth = (((x + 1) * 127.5).round().clamp(0, 255) / 255 for x in (views, truth))
    return {name: metric(views, truth).double().mean(dim=1).tolist() for name, metric in METRICS.items()}
