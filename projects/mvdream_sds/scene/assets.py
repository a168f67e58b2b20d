"""What `python -m projects.mvdream_sds.assets` does: train, render and export, one text after the other."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.batch import Record, run_batch
from core.cpu import cpu_seconds
from core.progress import console
from core.provenance import listening_for_keep
from core.training.run import run
from projects.mvdream_sds.assets import OWN, SHOWN, settings_of
from projects.mvdream_sds.scene.exporting import export
from projects.mvdream_sds.scene.filming import render
from projects.mvdream_sds.scene.run_settings import check, distillation
from projects.mvdream_sds.texts import asked_texts, text_of

say = partial(console.print, markup=False, highlight=False)


def make_assets(cfg: DictConfig) -> list[Record]:
    """One record per text; it goes on past a bad text, and fails at the end. What is done already stays as it is."""
    given: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    texts = asked_texts(given["prompt"], given["prompts"])
    names = list(texts)[: given["num_prompts"]]
    of_training = {key: value for key, value in given.items() if key not in OWN}
    out = Path(given["out"])

    def work(name: str) -> Record:
        folder, text, began = out / name, text_of(texts[name]), cpu_seconds()
        made: dict[str, Any] = {}
        say(f"{name}: {text}")
        optimise({**of_training, "prompt": text, "out": str(folder)})
        for part, make in (("render", render), ("export", export)):
            made[part] = make(OmegaConf.create(settings_of(SHOWN[part], given[part], str(folder))))
        fidelity, spent = made["export"]["fidelity"], round(cpu_seconds() - began, 1)
        return {"prompt": text, "folder": str(folder), "fidelity": fidelity, "cpu_seconds": spent}

    return run_batch(names, work, out=out, report=say)


def optimise(config: Mapping[str, Any]) -> None:
    """A run of `projects.mvdream_sds.train`, or the rest of it."""
    check(config)
    with listening_for_keep():  # that one of the runs made nothing new says nothing about the batch
        run(distillation(config))
