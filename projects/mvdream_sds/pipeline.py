"""From texts to view sets on disk: what `python -m projects.mvdream_sds.generate` does."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from core.attention.multiview import use_joint_attention
from core.batch import Record, finished, run_batch
from core.config import instantiate
from core.device import autocast, choose_device
from core.files import atomic_folder, sha256_file
from core.masks import check_mask_here
from core.memory import out_of_memory_as_request
from core.models.bundled import frozen_files
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from core.training.randomness import generator
from projects.mvdream_sds.cameras import condition
from projects.mvdream_sds.forecast import estimate_memory
from projects.mvdream_sds.request import Item, cameras_of, find_items, remarks
from projects.mvdream_sds.results import MARK, write_result
from projects.mvdream_sds.sampler import make_steps, sample
from projects.mvdream_sds.settings import SHAPING, Settings
from projects.mvdream_sds.taught import without_training
from projects.mvdream_sds.weights import files_of, load_weights

say = partial(console.print, markup=False, highlight=False)
FULL_TURN = 360.0


def generate(cfg: DictConfig) -> list[Record]:
    """The program behind `python -m projects.mvdream_sds.generate`; returns one record per text."""
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config = without_training(given, say)
    settings, device = Settings.of(config), choose_device(config["device"])
    check_mask_here(settings.mask)
    items = find_items(config)
    weights = files_of(config["weights"], config["lora"])
    for remark in remarks(config["model"], settings, str(config["negative_prompt"])):
        say(remark)
    estimate = estimate_memory(config["model"], settings, device)
    say(f"memory: {estimate}")
    with out_of_memory_as_request(estimate.hint):
        maker = Maker(config, settings, load_system(config["model"], settings, weights, device), weights)
        return run_batch(items, maker.make, out=Path(config["out"]), report=say)


def load_system(model: Mapping[str, Any], settings: Settings, weights: list[Path], device: torch.device) -> nn.Module:
    """The networks on their device, whole; what is wrong with the weights is no text's fault, so this comes first.

    Args:
        weights: of the model, and possibly adapters, which are merged into it.
    """
    system = instantiate(model)
    load_weights(system, *weights)
    if model["denoiser"]["attention"] == "eager":
        # It is quicker where there are gradients, and gives the same to rounding.
        use_joint_attention(system.denoiser.unet, "torch")
    system.latents.max_batch = settings.batch_view_num
    return system.eval().requires_grad_(False).to(device)


class Maker:
    """Makes one text's views after the other's, each in a folder of its own."""

    def __init__(self, config: Mapping[str, Any], settings: Settings, system: nn.Module, weights: list[Path]) -> None:
        self.config, self.settings, self.system = config, settings, system
        self.cameras = cameras_of(settings)
        self.provenance = provenance(config, weights=weights, seed=settings.seed)
        self.provenance["weights"] |= {name: sha256_file(path) for name, path in frozen_files(config["model"]).items()}

    def make(self, item: Item) -> Record:
        """The views of one text in its folder, unless they are there; returns the line for results.jsonl."""
        prompt = item.read()
        text = prompt + str(self.config["suffix"])
        key = self.key(text)
        overwrite = self.config["overwrite"]
        done = None if overwrite else finished(item.folder, key, mark=MARK)
        if done is not None:
            say(f"{item.folder}: done before, skipped")
            return {"status": "skipped", "folder": str(item.folder), **done}
        settings = self.settings
        with atomic_folder(item.folder, overwrite=overwrite, mark=MARK) as temporary, progress_bar() as bar:
            task = bar.add_task(item.folder.name, total=None)

            def on_step(number: int, total: int) -> None:
                bar.update(task, completed=number + 1, total=total)

            images = make_views(self.system, text, str(self.config["negative_prompt"]), settings, on_step)
            record = write_result(
                temporary,
                images,
                self.cameras if settings.use_camera else None,
                settings.mask,
                prompt,
                {**self.provenance, "prompt": text},
                {"key": key, "prompt": prompt, "text": text},
                is_turn=settings.azimuth_span == FULL_TURN,
            )
        made = f"{record['samples']} samples of {record['views']} views"
        say("; ".join([f"{item.folder}: {made}", *record["mask"]]))
        return {"folder": str(item.folder), **record}

    def key(self, text: str) -> str:
        """A digest of all that decides the result. Files count by their content."""
        shaping = {key: self.config[key] for key in SHAPING}
        return config_hash(shaping | {"text": text, "weights": sorted(self.provenance["weights"].values())})


@torch.no_grad()
def make_views(
    system: nn.Module,
    text: str,
    negative: str,
    settings: Settings,
    on_step: Callable[[int, int], None] = lambda number, total: None,
) -> Float[Tensor, "samples v 3 h w"]:
    """Images in about [0, 1] of all samples, on the CPU.

    A text draws from a stream of its own, so its views do not depend on what else is made. Without cameras each view is
    an object of its own, as officially.

    Args:
        on_step: gets each step's number from 0, and how many there are.
    """
    denoiser, latents = system.denoiser, system.latents
    device = next(denoiser.parameters()).device
    draws = generator(settings.seed, 0, stream="sample")
    side, channels = settings.size // latents.reduction, denoiser.unet.config.in_channels
    noise = torch.randn(settings.samples, settings.num_views, channels, side, side, generator=draws)
    camera = None
    if settings.use_camera:
        camera = condition(cameras_of(settings).poses).expand(settings.samples, -1, -1).to(device)
    else:
        noise = rearrange(noise, "s v c h w -> (s v) 1 c h w")
    steps = make_steps(
        denoiser.schedule,
        settings.sample_steps,
        draws,
        scheduler=settings.scheduler,
        eta=settings.eta,
        spacing=settings.timestep_spacing,
    )
    with autocast(device, settings.precision):
        context, null_context = system.text_encoder([text, negative])[:, None].split(1)
        x = sample(
            denoiser,
            context,
            null_context,
            camera,
            noise.to(device),
            steps=steps,
            guidance_scale=settings.cfg_scale,
            max_objects=settings.max_objects,
            on_step=lambda number, _: on_step(number, len(steps.timesteps)),
        )
        pixels = latents.decode(rearrange(x, "b v c h w -> (b v) c h w")).float().cpu()
    return rearrange(pixels / 2 + 0.5, "(s v) c h w -> s v c h w", s=settings.samples)
