"""Captions of held-out toybox objects -> one view set each, from the cameras that the true views have."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from core.config import whole
from core.cpu import cpu_seconds
from core.data.toybox import ToyboxPack, open_pack
from core.device import choose_device
from core.files import sha256_file
from core.foreground import with_alpha
from core.images import truncated
from core.models.bundled import frozen_files
from core.predicting import Predictions
from core.progress import console, progress_bar
from core.provenance import provenance
from core.training.randomness import derive
from core.views import ViewSet
from projects.mvdream_sds.pipeline import load_system, make_views
from projects.mvdream_sds.request import cameras_of, remarks
from projects.mvdream_sds.settings import Settings
from projects.mvdream_sds.taught import without_training
from projects.mvdream_sds.weights import files_of

# What does not decide an object's views: how many there are, and how they are computed.
ASIDE = ("out", "num_objects", "batch_view_num", "device", "overwrite")


def predict(cfg: DictConfig) -> None:
    """The program behind `python -m projects.mvdream_sds.predict`: writes `out/<object>` for every object.

    Started again, objects that are there with the same settings, weights and captions are kept. BadOutput where others
    are, unless `cfg.overwrite` is set: then they are replaced.
    """
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    say = partial(console.print, markup=False, highlight=False)
    config = without_training(given, say)
    settings, device = Settings.of({**config, "samples": 1}), choose_device(config["device"])
    weights = files_of(config["weights"], config["lora"])
    pack = open_pack(config["root"], config["split"])
    whole("num_objects", config["num_objects"], most=len(pack.uids))
    for remark in remarks(config["model"], settings, str(config["negative_prompt"])):
        say(remark)
    system = load_system(config["model"], settings, weights, device)
    record = provenance(config, weights=weights, seed=settings.seed)
    record["weights"] |= {name: sha256_file(file) for name, file in frozen_files(config["model"]).items()}
    deciding = {key: value for key, value in config.items() if key not in ASIDE} | {"data": pack.sha256}
    predictions = Predictions.of(Path(config["out"]), record, deciding, overwrite=config["overwrite"])
    missing = predictions.missing(pack.uids[: config["num_objects"]])
    with progress_bar() as bar:
        for number in bar.track(missing, description="sampling"):
            began = cpu_seconds()
            views = views_of(system, settings, pack, number, (config["suffix"], config["negative_prompt"]))
            predictions.write(views, cpu_seconds() - began)
    kept = config["num_objects"] - len(missing)
    were_there = f"; {kept} were there" if kept else ""
    console.print(f"{config['out']}: {len(missing)} objects made{were_there}", markup=False)


def views_of(
    system: torch.nn.Module, settings: Settings, pack: ToyboxPack, number: int, words: Sequence[str]
) -> ViewSet:
    """Views of one object. Each has its own noise, so the others do not change them.

    Args:
        words: what is joined to the caption, and what the views shall not show.
    """
    suffix, negative = words
    caption = pack.captions[number]
    own = replace(settings, seed=derive(settings.seed, number, "evaluate"))
    (images,) = make_views(system, caption + suffix, negative, own)
    rgba, _ = with_alpha(truncated(images.clamp(0, 1)), settings.mask)
    return ViewSet(rgba, cameras_of(settings), pack.uids[number], caption)
