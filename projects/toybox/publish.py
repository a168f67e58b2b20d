"""From a finished run to a folder that `from_pretrained` reads, with a card that says what it is worth."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.config import instantiate, plain
from core.files import atomic_folder
from core.models.bundled import CARD_FILE
from core.training.publishing import trained_weights, write_card


def publish(cfg: Any) -> dict[str, Any]:
    """Write the network of the run in `cfg.out` to `cfg.publish`; returns its card.

    The card's measurements come from objects of the test split, which nothing was trained or chosen on.
    """
    config = plain(cfg)
    weights = trained_weights(config["out"])
    torch.manual_seed(config["seed"])
    system = instantiate(config["model"])
    getattr(system, system.publishes).load_state_dict(load_file(weights))
    with atomic_folder(config["publish"], overwrite=True, mark=CARD_FILE) as folder:
        measured = system.publish(folder, root=config["data"]["root"])
        what = " ".join((type(system).__doc__ or "").split("\n\n")[0].split())
        card = write_card(folder, run=config["out"], what=what, measured=measured, replaces=Path(config["publish"]))
    print(f"{config['publish']}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()))
    return card
