"""From a finished run to a folder that `from_pretrained` reads, with a card that says what it is worth."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.config import instantiate, plain
from core.data.toybox import read_index
from core.files import atomic_folder, sha256_file
from core.provenance import provenance

SESSIONS = "sessions.jsonl"  # in the run folder: what each process of a run that was continued cost


@contextmanager
def count_seconds(out: str) -> Iterator[None]:
    """Adds what the block costs to the run's account; a killed process leaves none."""
    started, started_cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        session = {"cpu_seconds": time.process_time() - started_cpu, "seconds": time.monotonic() - started}
        with (Path(out) / SESSIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(session) + "\n")


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
    sessions = [json.loads(line) for line in (Path(config["out"]) / SESSIONS).read_text().splitlines()]
    with atomic_folder(folder, overwrite=True) as temporary:
        measured = system.publish(temporary, root=root)
        record = provenance(config, seed=config["seed"])
        card = {
            "what": " ".join((type(system).__doc__ or "").split("\n\n")[0].split()),
            "command": record["command"],
            "cpu_seconds": round(sum(session["cpu_seconds"] for session in sessions)),
            "seconds": round(sum(session["seconds"] for session in sessions)),
            "data_sha256": read_index(Path(root))["sha256"],
            "measured": measured,
            "files": {str(p.relative_to(temporary)): sha256_file(p) for p in sorted(temporary.rglob("*.safetensors"))},
            "config": {key: value for key, value in config.items() if key not in ("out", "publish")},
            **{key: record[key] for key in ("code", "config_hash", "seed", "versions", "date")},
        }
        (temporary / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(f"{folder}: " + ", ".join(f"{name} {value:.4g}" for name, value in measured.items()))
    return card
