"""From a finished run to a folder that `from_pretrained` reads, with a card that says what it is worth."""

import json
import resource
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.config import instantiate, plain
from core.data.toybox import read_index
from core.provenance import provenance
from projects.toybox import vae
from projects.toybox.vae import VaeSystem


def publish(cfg: Any) -> None:
    """Write `cfg.publish`: the network of the run in `cfg.out`, and `card.json`.

    The card's measurements come from objects of the test split, which nothing was trained or chosen on.
    """
    config = plain(cfg)
    out, folder = Path(config["out"]), Path(config["publish"])
    last = json.loads((out / "checkpoints" / (out / "checkpoints" / "last").read_text().strip() / "state.json").read_text())
    if last["position"]["step"] < config["trainer"]["max_steps"]:
        return
