"""From a finished run to a folder that `from_pretrained` reads, with a card that says what it is worth."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.config import instantiate, plain
from core.data.toybox import read_index
from core.files import atomic_folder, sha256_file
from core.provenance import provenance


def publish(cfg: Any) -> dict[str, Any] | None:
    """Write the network of the run in `cfg.out` to `cfg.publish`, with `card.json`; None while the run is unfinished.

    The card's measurements come from objects of the test split, which nothing was trained or chosen on.
    """
    config = plain(cfg)
    weights = Path(config["out"]) / "weights" / "model.safetensors"
    if not weights.is_file():
        return None
    torch.manual_seed(config["seed"])
    system = instantiate(config["model"])
    network = getattr(system, system.publishes)
    network.load_state_dict(load_file(weights))
    root, folder = config["data"]["root"], Path(config["publish"])
    with atomic_folder(folder, overwrite=True) as temporary:
        measured = system.publish(temporary, root=root)
        record = provenance(config, seed=config["seed"])
        card = {
            "what": " ".join((type(system).__doc__ or "").split("\n\n")[0].split()),
            "command": record["command"],
            "cpu_seconds": round(time.process_time()),  # of this process: training, measuring and saving
            "data_sha256": read_index(Path(root))["sha256"],
            "measured": measured,
            "files": {str(p.relative_to(temporary)): sha256_file(p) for p in sorted(temporary.rglob("*.safetensors"))},
            **{key: record[key] for key in ("code", "config", "config_hash", "seed", "versions", "date")},
        }
        (temporary / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"{folder}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()))
    return card
