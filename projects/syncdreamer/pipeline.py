"""From picture files to view sets on disk: SyncDreamer's `generate`, with its official settings and their defaults."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from core.batch import Record, run_batch
from core.config import instantiate
from core.device import choose_device
from core.files import atomic_folder, list_inputs, output_names, sha256_file
from core.foreground import mask_sha256, read_object
from core.images import image_sha256
from core.masks import check_mask_here
from core.memory import out_of_memory_as_request
from core.models.bundled import frozen_files, weights_file, without_start
from core.progress import console, progress_bar
from core.provenance import config_hash, provenance
from projects.syncdreamer.estimate import estimate_memory
from projects.syncdreamer.results import BEST, RANKING, finished, write_ranking, write_samples
from projects.syncdreamer.sampling import make_samples
from projects.syncdreamer.settings import SHAPING, Settings
from projects.syncdreamer.system import SyncDreamerSystem
from projects.syncdreamer.weights import MISSING, load_weights

say = partial(console.print, markup=False, highlight=False)


def generate(cfg: DictConfig) -> list[Record]:
    """The program behind `python -m projects.syncdreamer.generate`; returns one record per input."""
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    config = without_start(given, say)
    settings, device = Settings.of(config), choose_device(config["device"])
    check_mask_here(settings.mask)
    inputs = list_inputs(config["input"])
    weights = weights_file(config["weights"], advice=MISSING)
    estimate = estimate_memory(config["model"], settings, device)
    say(f"memory: {estimate}")
    with out_of_memory_as_request(estimate.hint):
        maker = Maker(config, settings, load_system(config["model"], settings, weights, device), weights)
        names = dict(zip(inputs, output_names(inputs), strict=True))
        return run_batch(
            inputs,
            lambda image: maker.make(image, Path(config["out"]) / names[image]),
            out=Path(config["out"]),
            report=say,
        )


def load_system(model: Mapping[str, Any], settings: Settings, weights: Path, device: torch.device) -> SyncDreamerSystem:
    """The model on its device, whole; what is wrong with the weights is no picture's fault, so this comes first."""
    system = instantiate(model)
    load_weights(system, weights)
    system.latents.max_batch = settings.batch_view_num
    return system.eval().requires_grad_(False).to(device)


class Maker:
    """Makes one picture after the other, each in a folder of its own."""

    def __init__(self, config: Mapping[str, Any], settings: Settings, system: SyncDreamerSystem, weights: Path) -> None:
        self.config, self.settings, self.system = config, settings, system
        self.provenance = provenance(config, weights=[weights], seed=settings.seed)
        self.provenance["weights"] |= {name: sha256_file(path) for name, path in frozen_files(config["model"]).items()}
        self.mask_sha256 = mask_sha256(settings.mask)

    def make(self, image: Path, folder: Path) -> Record:
        """The views of one picture in its folder, unless they are there; returns the line for results.jsonl."""
        key = self.key(image)
        done = None if self.config["overwrite"] else finished(folder, key)
        if done is not None:
            say(f"{folder}: done before, skipped")
            return {"status": "skipped", "folder": str(folder), **done}
        rgba, how = read_object(image, self.settings.mask)
        total = self.settings.sample_num * self.settings.sample_steps
        with (
            atomic_folder(folder, overwrite=self.config["overwrite"], mark=RANKING) as temporary,
            progress_bar() as bar,
        ):
            task = bar.add_task(image.name, total=total)
            samples = make_samples(self.system, rgba, self.settings, lambda: bar.advance(task))
            cameras = self.system.denoiser.cameras.to("cpu")
            source = {**self.provenance, "input": str(image), "mask": how}
            scores = write_samples(temporary, samples, cameras, image.stem, source)
            record = write_ranking(temporary, samples, scores, key, how)
        best = record["best"]
        say(f"{folder / BEST}: sample {best} (consistency {scores[best]:.3f}); mask: {how}")
        return {"folder": str(folder), **record}

    def key(self, image: Path) -> str:
        """A digest of all that decides the result. Files count by their content, not by their names."""
        shaping = {key: self.config[key] for key in SHAPING}
        mask = self.mask_sha256 or self.settings.mask
        digests = sorted(self.provenance["weights"].values())
        return config_hash(shaping | {"picture": image_sha256(image), "mask": mask, "weights": digests})
